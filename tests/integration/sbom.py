"""The bills of materials and the provenance, as public tools read them: spdx-tools, cyclonedx and
in-toto from the Python index, in a virtual environment that is kept in the user's cache."""

import json
import subprocess
import sys

import support

PACKAGES = ["spdx-tools", "cyclonedx-python-lib[json-validation]", "in-toto-attestation"]
place = support.CACHE / "envkit-tests" / "sbom-venv"
python = place / "bin" / "python"
if subprocess.run([python, "-c", "import spdx_tools, cyclonedx, in_toto_attestation"],
                  capture_output=True).returncode != 0 if python.exists() else True:
    subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)

project = support.new_project()
for what in (["sbom", "--format", "spdx"], ["sbom", "--format", "cyclonedx"], ["provenance"]):
    support.envkit("image", *what, "--variant", "cpu", "-o", f"{what[-1]}.json", project=project)

READ = r'''
import sys
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
document = parse_file("spdx.json")
messages = validate_full_spdx_document(document)
assert not messages, [message.validation_message for message in messages]
print("spdx-tools:", len(document.packages), "packages")

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
text = open("cyclonedx.json").read()
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
assert error is None, error
from cyclonedx.model.bom import Bom
import json
bom = Bom.from_json(json.loads(text))
assert bom.validate()
print("cyclonedx-python-lib:", len(bom.components), "components")

from google.protobuf.json_format import Parse
from in_toto_attestation.v1 import statement_pb2, statement
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
written = json.load(open("provenance.json"))
proto = Parse(json.dumps(written), statement_pb2.Statement())
statement.Statement.copy_from_pb(proto).validate()
predicate = Parse(json.dumps(written["predicate"]), provenance_pb2.Provenance())
assert predicate.build_definition.build_type and predicate.run_details.builder.id
print("in-toto-attestation:", len(predicate.build_definition.resolved_dependencies), "materials")
'''
subprocess.run([python, "-c", READ], cwd=project, check=True)

# Each package of the image is in both, with the hash that the lock has.
image = json.loads(support.envkit("build", "--variant", "cpu", "--json", project=project,
                                  quiet=True).stdout)
wanted = {(package["name"], package["sha256"]) for package in image["packages"]}
spdx = json.loads((project / "spdx.json").read_text())
found = {(package["name"], package["checksums"][0]["checksumValue"])
         for package in spdx["packages"] if "externalRefs" in package}
support.check(found == wanted, f"SPDX: {found ^ wanted}")
cyclone = json.loads((project / "cyclonedx.json").read_text())
found = {(component["name"], component["hashes"][0]["content"])
         for component in cyclone["components"] if "purl" in component}
support.check(found == wanted, f"CycloneDX: {found ^ wanted}")
