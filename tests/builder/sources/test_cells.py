"""Columns of parquet files and datasets: what cannot be an input is refused at once, with the way out."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cyclepref.builder.common.images import encode
from cyclepref.builder.sources.open import open_source
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.sources import DatasetColumn, ParquetColumn

PNG = encode(Image.new("RGB", (8, 8), "red"))


@pytest.mark.parametrize(
    ("column", "modality", "message"),
    [
        (["a.png", "b.png"], "image", r"holds texts, and this cycle starts from images: .* is `source: images`"),
        (pa.array(["a.png"]).dictionary_encode(), "image", "holds texts, and this cycle starts from images"),
        ([1, 2], "image", "holds int64, and this cycle starts from images"),
        ([PNG], "text", "holds images, and this cycle starts from texts: name a column of texts, or"),
        ([{"bytes": PNG, "path": None}], "text", "holds images, and this cycle starts from texts"),
        ([1, 2], "text", "holds int64, and this cycle starts from texts"),
        ([["a", "b"]], "text", "holds list.*, and this cycle starts from texts"),
    ],
)
def test_a_column_of_another_kind_is_refused_before_any_row_is_read(tmp_path, monkeypatch, column, modality, message):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"x": column}), tmp_path / "data" / "x.parquet")
    for kind, name in ((ParquetColumn, "parquet"), (DatasetColumn, "dataset")):
        with pytest.raises(RecipeError, match=f"inputs.column 'x' of .*data.* {message}"):
            open_source(kind(source=name, path=str(tmp_path / "data"), column="x"), modality).items()


def test_a_dataset_on_the_hub_is_to_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = {"source": "dataset", "column": "text"}
    with pytest.raises(RecipeError, match=r"no such folder .*`hf download org/name --repo-type dataset"):
        open_source(DatasetColumn(**spec, path="org/name"), "text").items()
    with pytest.raises(RecipeError, match=r"no such folder \(looked in .*/data/of/mine\)$"):
        open_source(DatasetColumn(**spec, path="data/of/mine"), "text").items()
