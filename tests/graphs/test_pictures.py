"""Pictures of graphs, and the command that draws them."""

import stat
import xml.dom.minidom
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.errors import ServeAppError
from serve_app import catalog as catalogs
from serve_app.cli import app
from serve_app.graphs import pictures
from serve_app.graphs.spec import Graph
from tests.graphs.graphed import node, to

GRAPH = Graph.model_validate(
    {
        "name": "animals",
        "nodes": {
            "root": node(
                "Sequence",
                {"nodeName": "kinds-of"},
                to("breed", condition='predictions.#(label=="dog")', dependency="Hard"),
                {"serviceUrl": "http://x/y"},
            ),
            "kinds-of": node("Splitter", {"serviceName": "a", "weight": 20}, {"serviceName": "b", "weight": 80}),
        },
    }
)
MERMAID = """\
flowchart TB
  request(["request"])
  node_root(["root: Sequence"])
  node_kinds_2d_of(["kinds-of: Splitter"])
  step_root_1["breed: breed"]
  step_root_2[["http://x/y"]]
  step_kinds_2d_of_0["a"]
  step_kinds_2d_of_1["b"]
  request --> node_root
  node_root --> node_kinds_2d_of
  node_kinds_2d_of -->|"2., if predictions.&#35;(label==&quot;dog&quot;), hard"| step_root_1
  step_root_1 -->|"3."| step_root_2
  node_kinds_2d_of -->|"20 %"| step_kinds_2d_of_0
  node_kinds_2d_of -->|"80 %"| step_kinds_2d_of_1
"""


def test_mermaid() -> None:
    assert pictures.mermaid(GRAPH) == MERMAID


def test_names_that_differ_never_become_one_box() -> None:
    nodes = {"root": node("Ensemble", {"nodeName": "a-b"}, {"nodeName": "a_b"}, {"nodeName": "ä"})}
    nodes |= {name: node("Sequence", to("m")) for name in ("a-b", "a_b", "ä")}
    boxes, _ = pictures.draw(Graph.model_validate({"name": "g", "nodes": nodes}))
    assert len({box.id for box in boxes}) == len(boxes)


def test_dot_text_is_quoted() -> None:
    text = pictures.dot(GRAPH)
    assert r'label="  2., if predictions.#(label==\"dog\"), hard"' in text
    assert text.count("{") == text.count("}") == 1


def test_without_graphviz_there_is_mermaid_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(app, ["graph", "voice-rag", "--out", str(tmp_path / "drawn")])
    assert done.exit_code == 0, done.output
    assert [file.name for file in (tmp_path / "drawn").iterdir()] == ["voice-rag.mmd"]


def test_with_graphviz_there_is_svg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in Graphviz's place, which wraps what it is given."""
    program = tmp_path / "dot"
    program.write_text('#!/bin/sh\n[ "$1" = -Tsvg ] && printf "<svg><![CDATA[" && /bin/cat && printf "]]></svg>"\n')
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(app, ["graph", "voice-rag", "--graph", "voice-rag", "--out", str(tmp_path)])
    assert done.output.split() == [str(tmp_path / "voice-rag.mmd"), str(tmp_path / "voice-rag.svg")]
    drawn = xml.dom.minidom.parse(str(tmp_path / "voice-rag.svg"))
    assert drawn.documentElement is not None
    assert "whisper/v1/audio/transcriptions" in drawn.documentElement.firstChild.data  # type: ignore[union-attr]
    program.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    with pytest.raises(pictures.PictureError, match="could not draw animals: broken"):
        pictures.svg(GRAPH)


def test_the_command_prints_and_names_what_there_is() -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["graph", "voice-rag"]).output.startswith("flowchart TB\n")
    assert "has no graphs" in runner.invoke(app, ["graph", "embedded"]).output
    refused = runner.invoke(app, ["graph", "voice-rag", "--graph", "nope"]).exception
    assert "has no graph 'nope'; it has: voice-rag" in str(refused)
    assert "1 graphs: voice-rag" in runner.invoke(app, ["catalog", "check", "voice-rag"]).output


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "drawn"
    file.write_text("x")
    refused = CliRunner().invoke(app, ["graph", "voice-rag", "--out", str(file)]).exception
    assert isinstance(refused, ServeAppError)
    assert f"cannot write the pictures to the folder {file}" in refused.message


def test_the_pictures_in_the_docs_are_of_the_graphs_as_they_are() -> None:
    """Graphviz's versions place things differently, so of the SVG only its texts are compared."""
    (graph,) = catalogs.load("voice-rag").graphs
    docs = Path(__file__).parents[2] / "docs"
    assert pictures.mermaid(graph) in (docs / "graphs.md").read_text()
    drawn = xml.dom.minidom.parse(str(docs / "graphs" / "voice-rag.svg"))
    shown = "".join(one.firstChild.data for one in drawn.getElementsByTagName("text"))  # type: ignore[union-attr]
    boxes, _ = pictures.draw(graph)
    assert [box.text for box in boxes if box.text.replace(": ", ":") not in shown] == []
    assert len(drawn.getElementsByTagName("polygon")) >= len(graph.nodes["root"].steps)
