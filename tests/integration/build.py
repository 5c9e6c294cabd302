"""The image of the example, CPU variant: built from the committed lock, then found again at once."""

import json
import support

project = support.new_project()
support.envkit("lock", "--check", project=project)
first = json.loads(support.envkit("build", "--variant", "cpu", "--json", project=project).stdout)
again = json.loads(support.envkit("build", "--variant", "cpu", "--json", project=project).stdout)
support.check(again["built"] == [], "a second build built something")
support.check(again["diff_ids"] == first["diff_ids"], "a second build gave other layers")
support.check(again["config_digest"] == first["config_digest"], "a second build gave another config")
names = [layer["what"] for layer in first["layers"]]
support.check(names[0] == "debian", f"the lowest layer is not Debian: {names}")
support.check(first["bytes"] < 800e6, f"the cpu image of profile train has {first['bytes']} bytes")
