"""
The Helm chart, rendered with the sets of values that are shipped.

In a process of its own, one for all tests: Helm is a library in Go, whose runtime would stay in that of the tests, and
it takes half a second to load.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

ROOT: Final = Path(__file__).parents[1]
CHART: Final = ROOT / "deploy/kubernetes/modelswap"
EXAMPLES: Final = ROOT / "deploy/kubernetes/examples"
NAMESPACE: Final = "product"
DIGEST: Final = f"sha256:{'5' * 64}"

Manifest: TypeAlias = dict[str, Any]
Values: TypeAlias = Mapping[str, Any]


def _shipped(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((EXAMPLES / f"values-{name}.yaml").read_text())
    return values


#: In C where it is there: ten times as fast.
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: The sets of values that every test of the chart looks at.
SETS: Final[Mapping[str, Values]] = {
    "default": {},
    "production": _shipped("production") | {"image": {"repository": "modelswap", "digest": DIGEST}},
    "minimal": _shipped("minimal"),
}


@cache
def _helm() -> subprocess.Popen[str]:
    helm = subprocess.Popen(
        [sys.executable, "-m", "tests.chart"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    # It ends with its standard input.
    atexit.register(helm.communicate)
    return helm


def render(sets: Mapping[str, Values], chart: Path = CHART) -> dict[str, dict[str, str]]:
    """Return what each set of values makes of the chart: the text of each template, or only ``error``."""
    helm, order = _helm(), {"chart": str(chart), "sets": dict(sets)}
    assert helm.stdin
    assert helm.stdout
    helm.stdin.write(json.dumps(order) + "\n")
    helm.stdin.flush()
    rendered: dict[str, dict[str, str]] = json.loads(helm.stdout.readline())
    return rendered


@cache
def _texts() -> dict[str, dict[str, str]]:
    return render(SETS)


def notes(name: str) -> str:
    """Return what Helm shows after an installation with the set *name*."""
    return _texts()[name]["modelswap/templates/NOTES.txt"]


def findings(name: str) -> list[str]:
    """Return the errors and warnings of `helm lint`."""
    found: list[str] = json.loads(_texts()[name]["lint"])
    return found


@cache
def manifests(name: str) -> tuple[Manifest, ...]:
    """Return everything that the set *name* makes."""
    return tuple(parse(_texts()[name]))


def parse(texts: Mapping[str, str]) -> Iterator[Manifest]:
    """Yield the manifests in rendered templates."""
    if "error" in texts:
        raise AssertionError(texts["error"])
    for path, text in texts.items():
        if path.endswith(".yaml"):
            yield from filter(None, yaml.load_all(text, _Loader))


def of_kind(name: str, *kinds: str) -> list[Manifest]:
    """Return the manifests of these kinds."""
    return [each for each in manifests(name) if each["kind"] in kinds]


def component(manifest: Manifest) -> str:
    """Return the part of modelswap that a manifest is for: a process, a job."""
    return str(manifest["metadata"]["labels"]["app.kubernetes.io/component"])


def by_component(name: str, kind: str) -> dict[str, Manifest]:
    """Return the manifests of one kind by their component."""
    return {component(each): each for each in of_kind(name, kind)}


def pods(name: str) -> dict[str, Manifest]:
    """Return the pod template of each process and job."""
    return {component(each): each["spec"]["template"] for each in of_kind(name, "Deployment", "Job")}


def container(template: Manifest) -> Manifest:
    """Return the only container of a pod."""
    (only,) = template["spec"]["containers"]
    return dict(only)


def is_found(selector: Mapping[str, str], template: Manifest) -> bool:
    """Return whether *selector* selects a pod."""
    return set(selector.items()) <= set(template["metadata"]["labels"].items())


def secret_keys(template: Manifest) -> dict[str, tuple[str, str]]:
    """Return where each secret comes from: the Secret and its key."""
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    files = [source["secret"] for source in volumes["secrets"]["projected"]["sources"]]
    return {item["path"]: (each["name"], item["key"]) for each in files for item in each["items"]}


def variables(template: Manifest) -> Sequence[Manifest]:
    """Return the environment variables of a pod that stand with it, not in a ConfigMap."""
    found: Sequence[Manifest] = container(template)["env"]
    return found


def _main() -> None:
    import helm_python as helm  # noqa: PLC0415 (its library is loaded in this process alone)

    def texts(chart: helm.Chart, values: dict[str, Any]) -> dict[str, str]:
        try:
            chart.validate_schema(values)
            return chart.render(values, name="modelswap", namespace=NAMESPACE)
        except helm.HelmError as error:
            return {"error": str(error)}

    def lint(path: str, values: dict[str, Any]) -> dict[str, str]:
        found = helm.lint(path, values, strict=True, namespace=NAMESPACE)
        worth = [each["error"] for each in found["messages"] if each["severity"] > 1]
        return {"lint": json.dumps(found["errors"] + worth)}

    for line in sys.stdin:
        order = json.loads(line)
        with helm.Chart.load(order["chart"]) as chart:
            done = {name: texts(chart, values) for name, values in order["sets"].items()}
        for name, values in order["sets"].items():
            if "error" not in done[name]:
                done[name] |= lint(order["chart"], values)
        print(json.dumps(done), flush=True)  # noqa: T201 (its answer)


if __name__ == "__main__":
    _main()
