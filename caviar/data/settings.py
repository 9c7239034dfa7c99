"""What a recipe says about the data: the sections [data] and [split]."""

from typing import Annotated, Literal

from pydantic import Field

from caviar.core.settings import Auto, NoneWord, Settings

Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class DataSettings(Settings):
    """Where the examples come from and how they are read."""

    source: str = "none"
    """file, folder of pictures, sample:NAME, or "none" for data handed over in memory"""
    dev: str = "none"
    """a file of development rows of its own, or none"""
    test: str = "none"
    """a file of test rows of its own, or none"""
    kind: Literal["auto", "table", "pictures", "arrays"] = "auto"
    """auto, table (CSV, TSV, Parquet, data frame), pictures (folder), or arrays (.npy, .npz, in memory)"""
    target: str = "none"
    """the column to predict (tables)"""
    task: Literal["auto", "classification", "regression"] = "auto"
    """auto, classification or regression"""
    ignore: Auto | tuple[str, ...] = "auto"
    """columns left out; auto leaves out constant columns and columns that merely number the rows"""
    categorical: tuple[str, ...] = ()
    """columns read as categories although they hold numbers"""
    delimiter: str = "auto"
    """the field delimiter of a text table; auto: comma for .csv, tab for .tsv"""
    encoding: str = "utf-8"
    """the character encoding of a text table"""
    picture_size: Auto | tuple[Annotated[int, Field(ge=4, le=4096)], Annotated[int, Field(ge=4, le=4096)]] = "auto"
    """height and width every picture is brought to; auto: their own size where all agree, else 64 x 64"""
    picture_mode: Literal["auto", "rgb", "grey"] = "auto"
    """rgb, grey, or auto: grey when every picture is"""
    max_pixels: Annotated[int, Field(ge=1)] = 50_000_000
    """a picture with more pixels than this is refused, not decoded"""
    memory_budget: Annotated[int, Field(ge=1)] = 1024
    """MiB of examples kept in memory; more is streamed from a memory-mapped file in the cache"""
    digest: str = "auto"
    """digest of the content, written when the recipe is resolved; a resume refuses other data"""


class SplitSettings(Settings):
    """Which examples train, which choose (dev) and which judge (test)."""

    method: Literal["auto", "fraction", "column", "group", "given"] = "auto"
    """auto; fraction; column (its values say train, dev or test); group (none on both sides); given (files, folders)"""
    dev: Auto | Share | Count = "auto"
    """share (0 to 1) or number of dev examples; auto: 20 percent, at most 5,000"""
    test: Auto | Share | Count = "auto"
    """share (0 to 1) or number of test examples; auto: 20 percent, at most 5,000"""
    stratify: bool = True
    """keep the share of each class equal in all splits (classification)"""
    column: str | NoneWord = "none"
    """the column whose values say train, dev (or val, valid, validation) or test"""
    group: str | NoneWord = "none"
    """the column whose equal values must stay on one side"""
