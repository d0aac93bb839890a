"""Makes training sets that hold only what was known at the time of each row.

Made by `millrace-collector feast export`; made again, it is overwritten.

    python training.py --service NAME --entities rows.csv --out training.parquet

`rows.csv` (or .parquet) has the entity's column (for example `machine`), `event_timestamp`, and whatever
else is to be carried along, such as labels.
"""

import argparse
from pathlib import Path

import pandas as pd
from feast import FeatureStore


def training_set(entity_df, features, repo_path=Path(__file__).parent, full_feature_names=False):
    """Joins features to `entity_df` as they were known at each row's `event_timestamp`.

    `features` is a feature service or a list of "view:feature". Without `filter_by_created_timestamp`
    (off in Feast unless asked for) late data and corrections would leak into rows from before they arrived.
    Feast's file store leaves out rows for which nothing was known yet.
    """
    store = FeatureStore(repo_path=str(repo_path))
    if isinstance(features, str):
        features = store.get_feature_service(features)
    return store.get_historical_features(
        entity_df=entity_df,
        features=features,
        full_feature_names=full_feature_names,
        filter_by_created_timestamp=True,
    ).to_df()


def _read(path):
    rows = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    rows["event_timestamp"] = pd.to_datetime(rows["event_timestamp"], utc=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description="Makes a training set without leaks.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--service", help="a feature service")
    what.add_argument("--features", nargs="+", help="view:feature …")
    parser.add_argument("--entities", type=Path, required=True, help="CSV or Parquet")
    parser.add_argument("--out", type=Path, required=True, help="CSV or Parquet")
    arguments = parser.parse_args()
    rows = training_set(_read(arguments.entities), arguments.service or arguments.features)
    if arguments.out.suffix == ".parquet":
        rows.to_parquet(arguments.out)
    else:
        rows.to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
