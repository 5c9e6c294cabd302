"""What `envkit render compose` and `envkit render devcontainer` write is valid by the published
schemas, which lie in a directory that ENVKIT_SCHEMAS names, and says what it should."""

import json
import os
import pathlib

import support

try:
    import jsonschema
    import yaml
except ImportError:
    support.skip("python3-jsonschema and python3-yaml are not installed")
SCHEMAS = pathlib.Path(os.environ.get("ENVKIT_SCHEMAS") or support.SOURCE.parent / "shared/schemas")


def validate(document, name):
    if not (SCHEMAS / name).exists():
        print(f"no {name} below {SCHEMAS}: not validated")
        return
    schema = json.loads((SCHEMAS / name).read_text())
    jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema).validate(
        document)


place = support.new_directory()
project = support.new_project(place / "project")
with open(project / "envkit.toml", "a") as file:  # what YAML and compose would read otherwise
    file.write('\n[run.env]\nPRICE = "5 $HOME ${X} \\"q\\" #c"\nNO = "no"\n')
env = {"XDG_STATE_HOME": place / "state", "HOME": place}
for variant in ("cpu", "cuda"):
    text = support.envkit("render", "compose", "--variant", variant, project=project, env=env,
                          quiet=True).stdout
    document = yaml.safe_load(text)
    validate(document, "compose-spec.json")
    support.check(set(document["services"]) == {"train", "jupyter", "tensorboard", "ssh"}, text)
    for name, service in document["services"].items():
        support.check("PRICE=5 $$HOME $${X} \"q\" #c" in service["environment"], service)
        support.check("NO=no" in service["environment"], service)
        support.check(service["security_opt"] == ["no-new-privileges:true"] and
                      "privileged" not in service and "ports" not in service, service)
        if name != "train":
            support.check(service["cap_drop"] == ["ALL"] and "healthcheck" in service, service)
    support.check(not (place / "state").exists(), "stdout alone writes secrets")
    text = support.envkit("render", "devcontainer", "--variant", variant, project=project, env=env,
                          quiet=True).stdout
    container = json.loads(text)
    validate(container, "devContainer.base.schema.json")
    support.check(container["containerEnv"]["PRICE"] == '5 $HOME ${X} "q" #c', text)
feature = json.loads((support.SOURCE / "devcontainer/envkit/devcontainer-feature.json").read_text())
validate(feature, "devContainerFeature.schema.json")
