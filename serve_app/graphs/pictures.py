"""Pictures of graphs: Mermaid text, DOT text, and SVG by Graphviz's `dot` where that is installed."""

import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from deployments.errors import ServeAppError
from serve_app.graphs.spec import ROOT, Graph, Node, Step

DOT_TIMEOUT_S = 30


class PictureError(ServeAppError):
    """Graphviz could not draw."""

    code = "not_drawn"


class Box(NamedTuple):
    """A node, or what a step asks."""

    id: str
    text: str
    shape: str
    """`node`, `model` or `url`."""


class Arrow(NamedTuple):
    """A way from one to another, and what is to be known of it."""

    start: str
    end: str
    text: str


def draw(graph: Graph) -> tuple[list[Box], list[Arrow]]:
    """What there is to be drawn. Steps of a Sequence follow each other, those of other nodes spread out."""
    boxes = [Box(_node_id(name), f"{name}: {node.router_type}", "node") for name, node in graph.nodes.items()]
    arrows = [Arrow("request", _node_id(ROOT), "")]
    for name, node in graph.nodes.items():
        ends = []
        for index, step in enumerate(node.steps):
            end = _node_id(step.node_name) if step.node_name else f"step_{_safe(name)}_{index}"
            ends.append(end)
            if not step.node_name:
                shape = "url" if step.service_url else "model"
                title = f"{step.name}: {step.target}" if step.name else step.target
                boxes.append(Box(end, title, shape))
        arrows.extend(_arrows(name, node, ends))
    return [Box("request", "request", "node"), *boxes], arrows


def _arrows(name: str, node: Node, ends: list[str]) -> Iterator[Arrow]:
    for index, (step, end) in enumerate(zip(node.steps, ends, strict=True)):
        chained = node.router_type == "Sequence" and index > 0
        yield Arrow(ends[index - 1] if chained else _node_id(name), end, ", ".join(_notes(step, index, chained)))


def _notes(step: Step, index: int, chained: bool) -> Iterator[str]:
    if chained:
        yield f"{index + 1}."
    if step.condition:
        yield f"if {step.condition}"
    if step.weight is not None:
        yield f"{step.weight} %"
    if step.dependency == "Hard":
        yield "hard"


def mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart, which GitHub and many editors draw."""
    boxes, arrows = draw(graph)
    shapes = {"node": "{id}([{text}])", "model": "{id}[{text}]", "url": "{id}[[{text}]]"}
    lines = [shapes[box.shape].format(id=box.id, text=_mermaid_text(box.text)) for box in boxes]
    for arrow in arrows:
        text = f"|{_mermaid_text(arrow.text)}|" if arrow.text else ""
        lines.append(f"{arrow.start} -->{text} {arrow.end}")
    return "flowchart TB\n" + "".join(f"  {line}\n" for line in lines)


def dot(graph: Graph) -> str:
    """The graph in Graphviz's language."""
    boxes, arrows = draw(graph)
    shapes = {"node": "box, style=rounded", "model": "box", "url": "component"}
    lines = [f"{box.id} [label={_dot_text(box.text, within=True)}, shape={shapes[box.shape]}]" for box in boxes]
    for arrow in arrows:
        text = f"  {arrow.text}" if arrow.text else ""
        lines.append(f"{arrow.start} -> {arrow.end} [label={_dot_text(text)}]")
    style = "nodesep=0.4; ranksep=0.3; node [fontname=Helvetica, fontsize=12]; edge [fontname=Helvetica, fontsize=10]"
    return f"digraph {_dot_text(graph.name)} {{ {style}\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


def svg(graph: Graph) -> str | None:
    """The graph as SVG; None where Graphviz is not installed. Blocks. Raises `PictureError`."""
    program = shutil.which("dot")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-Tsvg"], input=dot(graph), capture_output=True, text=True, timeout=DOT_TIMEOUT_S, check=True
        )
    except subprocess.CalledProcessError as error:
        raise PictureError(f"{program} could not draw {graph.name}: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PictureError(f"{program} could not draw {graph.name}: {error}") from error
    return done.stdout


def _node_id(name: str) -> str:
    return f"node_{_safe(name)}"


def _safe(name: str) -> str:
    """A name in letters, digits and `_`; two names never become one."""
    return "".join(char if char.isascii() and char.isalnum() else f"_{ord(char):x}_" for char in name)


def _mermaid_text(text: str) -> str:
    return '"' + text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace("#", "&#35;") + '"'


def _dot_text(text: str, within: bool = False) -> str:
    """A text for Graphviz; one that stands `within` a box has its name in a line of its own."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + (quoted.replace(": ", ":\\n", 1) if within else quoted) + '"'
