"""What Feast knows of the project plant.

Made by `millrace-collector feast export`; made again, it is overwritten: change the
feature files instead, then export and `feast apply`.
"""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Bool, Float64, Int64, String

entity_line = Entity(
    name="line",
    join_keys=["line"],
    value_type=ValueType.STRING,
)

entity_machine = Entity(
    name="machine",
    join_keys=["machine"],
    value_type=ValueType.STRING,
)

source_press_health_1m = FileSource(
    name="press_health_1m_source",
    path="/var/lib/millrace/features/press_health_1m_v1",
    timestamp_field="event_timestamp",
    created_timestamp_column="created",
)

view_press_health_1m = FeatureView(
    name="press_health_1m",
    entities=[entity_machine],
    ttl=timedelta(seconds=3600),
    schema=[
        Field(name="machine", dtype=String),
        Field(name="temp_mean", dtype=Float64, tags={"unit": "degC"}),
        Field(name="starts", dtype=Int64),
        Field(name="running", dtype=Bool),
        Field(name="mode", dtype=String),
    ],
    online=True,
    source=source_press_health_1m,
    tags={"millrace_version": "1", "millrace_graph": "0000000000000abc"},
)

source_press_health_1m_v2 = FileSource(
    name="press_health_1m_v2_source",
    path="/var/lib/millrace/features/press_health_1m_v2",
    timestamp_field="event_timestamp",
    created_timestamp_column="created",
)

view_press_health_1m_v2 = FeatureView(
    name="press_health_1m_v2",
    entities=[entity_machine],
    ttl=timedelta(microseconds=500000),
    schema=[
        Field(name="machine", dtype=String),
        Field(name="temp_mean", dtype=Float64, tags={"unit": "degC"}),
        Field(name="starts", dtype=Int64),
        Field(name="running", dtype=Bool),
        Field(name="mode", dtype=String),
    ],
    online=True,
    source=source_press_health_1m_v2,
    tags={"millrace_version": "2", "millrace_graph": "0000000000000abc"},
)

source_line_shift = FileSource(
    name="line_shift_source",
    path="/var/lib/millrace/features/line_shift_v1",
    timestamp_field="event_timestamp",
    created_timestamp_column="created",
)

view_line_shift = FeatureView(
    name="line_shift",
    entities=[entity_line],
    ttl=timedelta(seconds=0),
    schema=[
        Field(name="line", dtype=String),
        Field(name="temp_mean", dtype=Float64, tags={"unit": "degC"}),
        Field(name="starts", dtype=Int64),
        Field(name="running", dtype=Bool),
        Field(name="mode", dtype=String),
    ],
    online=True,
    source=source_line_shift,
    tags={"millrace_version": "1", "millrace_graph": "0000000000000abc"},
)

service_press_anomaly_v1 = FeatureService(
    name="press_anomaly_v1",
    features=[
        view_press_health_1m,
        view_line_shift[["starts", "mode"]],
    ],
)
