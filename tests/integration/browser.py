"""JupyterLab and TensorBoard as a person sees them: headless Chromium opens the links that
`envkit dev up` printed, runs a cell that imports torch and sees its output, and sees the cards of a
real run. Screenshots stay in the build tree, below screenshots/."""

import base64
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import support

DRIVER = shutil.which("chromedriver")
if not DRIVER or not shutil.which("chromium"):
    support.skip("chromium and chromium-driver are not installed")
PICTURES = support.BUILD / "screenshots"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Browser:
    """W3C WebDriver, as chromedriver speaks it."""

    def __init__(self, home):
        port = free_port()
        self.root = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([DRIVER, f"--port={port}", "--log-level=SEVERE"],
                                        env={**os.environ, "HOME": str(home)})
        end = time.monotonic() + 60
        while True:
            try:
                if self.ask("GET", "/status")["ready"]:
                    break
            except OSError:
                support.check(time.monotonic() < end, "chromedriver does not start")
            time.sleep(0.1)
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     "--no-first-run", "--no-proxy-server", "--window-size=1400,900",
                     f"--user-data-dir={home}/chromium"]
        answer = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments}}}})
        self.root += "/session/" + answer["sessionId"]

    def ask(self, method, path, body=None):
        request = urllib.request.Request(self.root + path, method=method,
                                         data=None if body is None else json.dumps(body).encode(),
                                         headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=180) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()[:500]) from None

    def open(self, url):
        self.ask("POST", "/url", {"url": url})

    def run(self, script):
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def wait(self, what, script, seconds=120):
        end = time.monotonic() + seconds
        while True:
            try:
                value = self.run(script)
            except RuntimeError:
                value = None
            if value:
                return value
            if time.monotonic() > end:
                self.picture("failed")
                support.check(False, f"the browser does not show {what}")
            time.sleep(0.3)

    def picture(self, name):
        PICTURES.mkdir(parents=True, exist_ok=True)
        file = PICTURES / f"{name}.png"
        file.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))
        print("screenshot:", file)

    def close(self):
        try:
            self.ask("DELETE", "")
        except (OSError, RuntimeError):
            pass
        self.process.terminate()
        self.process.wait()


def jupyter(browser, url):
    """A notebook that lies in the workspace; its cell is run with the keys that people press."""
    root, token = url.split("/lab?token=")
    browser.open(f"{root}/lab/tree/look.ipynb?token={token}")
    browser.wait("the notebook's cell", "return document.querySelector('.jp-Notebook .cm-content')")
    # The kernel is there: its indicator is idle.
    browser.wait("an idle kernel", "return document.querySelector("
                 "'.jp-Notebook-ExecutionIndicator[data-status=idle]')")
    # As people do: click into the cell, then Shift and Enter; again where Lab still drew itself anew.
    keys = [{"type": kind, "value": key} for kind, key in (("keyDown", "\ue008"), ("keyDown", "\ue007"),
                                                           ("keyUp", "\ue007"), ("keyUp", "\ue008"))]
    for _ in range(5):
        x, y = browser.wait("the cell's editor", """
            for (const each of document.querySelectorAll('.jp-Notebook .jp-Cell .cm-content')) {
              const box = each.getBoundingClientRect();
              if (box.height > 0) return [Math.round(box.x + 20), Math.round(box.y + 5)];
            }""")
        browser.ask("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [
            {"type": "pointerMove", "duration": 0, "x": x, "y": y}, {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0}]}]})
        browser.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})
        time.sleep(3)
        if browser.run("return !!document.querySelector('.jp-OutputArea-output, .jp-InputPrompt.jp-mod-busy')"):
            break
    text = browser.wait("the cell's output", "const out = document.querySelector("
                        "'.jp-OutputArea-output pre'); return out && out.textContent;")
    browser.picture("jupyterlab")
    support.check(not browser.run("return document.body.innerText.includes('Jupyter news')"),
                  "JupyterLab asks about news")
    print("the cell says:", text)
    support.check(text.startswith("torch 2.") and "sum 6.0" in text, text)


def tensorboard(browser, url, steps):
    browser.open(url + "?tagFilter=train%2Floss#timeseries")
    # Cards' charts are drawn in a worker; what they draw has the run's name and a canvas or path.
    browser.wait("the run's name", "return document.body.innerText.includes('train/events') || "
                 "document.body.innerText.includes('-train')")
    browser.wait("the curve's card", "return document.querySelectorAll("
                 "'scalar-card, tf-line-chart-data-loader, line-chart').length > 0 && "
                 "document.body.innerText.includes('loss')")
    time.sleep(3)  # what is drawn next is no element
    browser.picture("tensorboard")
    runs = json.loads(urllib.request.urlopen(url + "data/runs").read())
    points = json.loads(urllib.request.urlopen(
        url + f"data/plugin/scalars/scalars?run={runs[0]}&tag=train/loss").read())
    support.check(len(points) >= steps, f"{len(points)} points of {runs}")
    support.check(len(runs) == 1, f"a run is listed twice: {runs}")


place = support.new_directory("envkit-browser-")
home = place / "home"
home.mkdir()
project = support.new_project(place / "project")
env = {"HOME": str(home), "XDG_STATE_HOME": str(home / "state")}
cell = ("import torch\nprint('torch', torch.__version__)\n"
        "print('sum', torch.arange(4, dtype=torch.float32).sum().item())")
(project / "look.ipynb").write_text(json.dumps({
    "cells": [{"cell_type": "code", "execution_count": None, "id": "look", "metadata": {},
               "outputs": [], "source": cell}],
    "metadata": {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python",
                                "name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}))
browser = None
try:
    support.envkit("run", "train", "--engine", "oci", "--variant", "cpu", "--", "--set", "max_steps=60", "--set", "log_every=5",
                   project=project, env=env)
    steps = len(support.metrics(support.latest_run(project), "train/loss"))
    report = json.loads(support.envkit("dev", "up", "--engine", "oci", "--variant", "cpu", "--json",
                                       "--no-ssh-config", project=project, env=env, quiet=True).stdout)
    browser = Browser(place)
    jupyter(browser, report["services"]["jupyter"]["url"])
    tensorboard(browser, report["services"]["tensorboard"]["url"], steps)
finally:
    if browser:
        browser.close()
    subprocess.run([support.ENVKIT, "dev", "down"], cwd=project, env=support.environment(**env))
    shutil.rmtree(place, ignore_errors=True)
