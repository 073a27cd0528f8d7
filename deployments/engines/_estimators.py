"""What a fitted scikit-learn estimator takes and makes, as named tensors.

Knows nothing of requests or files.
"""

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from deployments.errors import BadRequest, EngineError
from deployments.settings import Frozen
from deployments.specs import INPUT, Array, Datatype, TensorSpec, object_array

MAX_DENSE = 1 << 24
"""Numbers in one answer that the model makes as a sparse matrix."""
_DATATYPES: dict[str, Datatype] = {"b": "BOOL", "i": "INT64", "u": "INT64", "f": "FP64", "U": "BYTES", "O": "BYTES"}
"""By numpy's kinds of dtypes."""
_OF_ARRAYS: dict[tuple[str, str], Callable[[tuple[Any, ...]], Any]] = {
    ("validation", "_get_feature_names"): lambda _: None,
    ("validation", "_nw_into_df_or_series"): lambda _: False,
    ("_array_api", "_remove_non_arrays"): list,
}
"""Functions of modules of `sklearn.utils` that find out what they are given, and their answer to plain arrays."""
_DTYPES: dict[str, Any] = {"BOOL": np.bool_, "INT64": np.int64, "FP64": np.float64, "BYTES": np.object_}


class MatrixInput(Frozen):
    """What the model's one input is, where the estimator does not say."""

    datatype: Datatype = "FP64"
    shape: tuple[int, ...] | None = None


class Declared(NamedTuple):
    """What an estimator takes; `columns` may be given in place of a matrix. `sample` is one row of it."""

    inputs: tuple[TensorSpec, ...]
    columns: tuple[str, ...]
    sample: dict[str, Array]


class _Column(NamedTuple):
    """A column's datatype, and a value that the estimator knows."""

    datatype: Datatype
    value: Any


def declare_inputs(estimator: Any, asked: MatrixInput | None) -> Declared:
    """A matrix `input-0`, or the texts that a vectorizer reads, or, where columns are of several kinds, each column."""
    names = tuple(str(name) for name in getattr(estimator, "feature_names_in_", ()))
    count = int(getattr(estimator, "n_features_in_", -1))
    if asked:
        return Declared((_matrix(asked, count),), names, {INPUT: _made_up(asked, count)})
    first = first_step(estimator)
    if count == -1 and _reads_texts(first):
        return Declared((TensorSpec(name=INPUT, datatype="BYTES", shape=(-1,)),), names, {INPUT: _row([b"a"])})
    columns = _columns(first, max(count, 1))
    texts = any(one.datatype == "BYTES" for one in columns)
    if texts and names:
        specs = [
            TensorSpec(name=name, datatype=one.datatype, shape=(-1,)) for name, one in zip(names, columns, strict=True)
        ]
        return Declared(
            tuple(specs), names, {name: _row([one.value]) for name, one in zip(names, columns, strict=True)}
        )
    datatype: Datatype = "BYTES" if texts else "FP64"
    row = _row([one.value if not texts or one.datatype == "BYTES" else str(one.value).encode() for one in columns])
    return Declared((TensorSpec(name=INPUT, datatype=datatype, shape=(-1, count)),), names, {INPUT: row[None]})


def know_arrays() -> None:
    """Have scikit-learn not find out, again and again for one call, that a plain numpy array is one.

    Since scikit-learn 1.9 (scikit-learn#31127) it asks narwhals of every array, by some 160 calls: a third of a linear
    model's time on a few rows; a sixth of the rest goes into telling arrays from tables and texts, eight times. A
    version without these functions is left as it is.
    """
    for (module, name), answer in _OF_ARRAYS.items():
        try:
            place = importlib.import_module(f"sklearn.utils.{module}")
        except ModuleNotFoundError:
            continue
        ask = getattr(place, name, None)
        if ask is not None and not hasattr(ask, "__wrapped__"):
            setattr(place, name, _unless_arrays(ask, answer))


def _unless_arrays(ask: Callable[..., Any], answer: Callable[[tuple[Any, ...]], Any]) -> Callable[..., Any]:
    """The function, whose answer is known where all that it is given is plain numpy arrays."""

    @functools.wraps(ask)
    def asked(*given: Any, **options: Any) -> Any:
        for one in given:
            if type(one) is not np.ndarray:
                return ask(*given, **options)
        return answer(given)

    return asked


def read_texts(array: Array) -> Array:
    """BYTES as the texts that they are in UTF-8; other arrays as they are. Raises `ValueError`."""
    if array.dtype.kind != "O":
        return array
    return object_array([bytes(value).decode() for value in array.reshape(-1)]).reshape(array.shape)


def read_column(array: Array) -> Array:
    """A column `[n]` or `[n, 1]` as pandas takes it."""
    column = read_texts(array.reshape(-1) if array.shape[1:] == (1,) else array)
    return column.astype(np.float64) if column.dtype.kind == "V" else column  # BF16, of which pandas knows nothing


def as_tensor(made: Any) -> Array:
    """What a method of an estimator has made, as BOOL, INT64, FP64 or BYTES.

    Raises `BadRequest` for a sparse matrix of too many numbers, and `EngineError` for what is no tensor.
    """
    if hasattr(made, "toarray"):
        made = _dense(made)
    if isinstance(made, list) and made and isinstance(made[0], np.ndarray):
        if len({one.shape for one in made}) > 1:
            raise EngineError(f"its outputs have different lengths: {', '.join(str(one.shape[-1]) for one in made)}")
        made = np.stack(made, axis=1)
    array = np.asarray(made)
    if array.dtype.kind == "O":
        array = np.asarray(array.tolist())
    if array.dtype.kind not in "biufU":
        raise EngineError(f"an answer of {array.dtype} is neither of numbers nor of texts")
    return as_datatype(array, _DATATYPES[array.dtype.kind])


def as_datatype(array: Array, datatype: Datatype) -> Array:
    """The array as that datatype, if that loses nothing. Raises `EngineError`."""
    if datatype == "BYTES" and array.dtype.kind == "U":
        return object_array([text.encode() for text in array.reshape(-1).tolist()]).reshape(array.shape)
    dtype = _DTYPES[datatype]
    if array.dtype != dtype and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise EngineError(f"it answered with {array.dtype} what was declared as {datatype}")
    return array.astype(dtype, copy=False)


def spec_of(name: str, rows: Array) -> TensorSpec:
    """What an answer declares of any number of such rows."""
    return TensorSpec(name=name, datatype=_DATATYPES[rows.dtype.kind], shape=(-1, *rows.shape[1:]))


def guess(name: str, estimator: Any, method: str) -> TensorSpec:
    """What a method will answer with, by what the estimator says of itself."""
    classes = getattr(estimator, "classes_", None)
    known = isinstance(classes, np.ndarray) and classes.ndim == 1
    if method == "predict":
        datatype = (
            _DATATYPES.get(np.asarray(classes.tolist()).dtype.kind, "BYTES")
            if classes is not None and known
            else "FP64"
        )
        return TensorSpec(name=name, datatype=datatype, shape=(-1,))
    width = len(classes) if classes is not None and known and method == "predict_proba" else -1
    return TensorSpec(name=name, datatype="FP64", shape=(-1, width))


def judges_rows_alone(estimator: Any) -> bool:
    """Whether the answer to a row is the same whatever rows are beside it, but for rounding, as far as is known.

    NMF's is not: its transform iterates until all rows together have converged, and answers differ by some 0.5 %.
    """
    from sklearn.decomposition import NMF, MiniBatchNMF

    return not any(isinstance(part, NMF | MiniBatchNMF) for part in [estimator, *_parameters(estimator).values()])


def bound_jobs(estimator: Any, threads: int) -> None:
    """Have no part of the estimator start more threads than there are for it (`n_jobs: -1` is all of the machine's)."""
    jobs = {name: value for name, value in _parameters(estimator).items() if name.rpartition("__")[2] == "n_jobs"}
    over = {name: threads for name, value in jobs.items() if isinstance(value, int) and not 0 < value <= threads}
    if over:
        estimator.set_params(**over)


def _parameters(estimator: Any) -> dict[str, Any]:
    """What it was made with, its steps and their parameters included."""
    return dict(estimator.get_params()) if hasattr(estimator, "get_params") else {}


def _matrix(asked: MatrixInput, count: int) -> TensorSpec:
    return TensorSpec(name=INPUT, datatype=asked.datatype, shape=asked.shape or (-1, count))


def _made_up(asked: MatrixInput, count: int) -> Array:
    shape = (1, *(max(length, 1) for length in _matrix(asked, count).shape[1:]))
    return np.full(shape, b"a", np.object_) if asked.datatype == "BYTES" else np.zeros(shape)


def _row(values: Sequence[Any]) -> Array:
    """Values as `[n]`, numbers or BYTES."""
    return np.array(values, np.object_ if isinstance(values[0], bytes) else None)


def first_step(estimator: Any) -> Any:
    """The part of an estimator that reads the input."""
    for _ in range(10):
        steps = getattr(estimator, "steps", None) or getattr(estimator, "transformer_list", None) or []
        inner = [step for _, step, *_ in steps if not isinstance(step, str)]
        inner += [getattr(estimator, name, None) for name in ("best_estimator_", "regressor_", "estimator_")]
        inner = [one for one in inner if one is not None]
        if not inner:
            break
        estimator = inner[0]
    return estimator


def _reads_texts(step: Any) -> bool:
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

    return isinstance(step, CountVectorizer | HashingVectorizer)


def _columns(first: Any, count: int) -> list[_Column]:
    """The columns that the first step reads: texts and categories as its encoders know them, else numbers."""
    found = [_Column("FP64", 0.0)] * count
    for reader, columns in readers(first, count):
        if columns and _reads_texts(reader):
            found[columns[0]] = _Column("BYTES", b"a")
        for at, categories in zip(columns, getattr(reader, "categories_", ()), strict=False):
            kind = np.asarray(categories.tolist()).dtype.kind
            if kind == "U":
                found[at] = _Column("BYTES", next(one for one in categories if isinstance(one, str)).encode())
            elif found[at].datatype != "BYTES" and kind in "biuf":
                found[at] = _Column("FP64", float(categories[0]))
    return found


def readers(first: Any, count: int) -> Iterator[tuple[Any, list[int]]]:
    """Encoders and vectorizers in the first step, each with the places of the columns that it reads."""
    whole = {"": list(range(count))}
    places: dict[str, list[int]] = getattr(first, "_transformer_to_input_indices", whole)  # there is no public one
    for name, part, *_ in getattr(first, "transformers_", [("", first)]):
        for _, step in getattr(part, "steps", [("", part)]):
            yield step, places.get(name, [])


def _dense(made: Any) -> Array:
    rows, width = made.shape
    if rows * width > MAX_DENSE:
        raise BadRequest(
            f"{rows} rows of {width} numbers are {rows * width}; at most {MAX_DENSE}. Ask for fewer rows at once",
            param="inputs",
        )
    dense: Array = made.toarray()
    return dense
