CREATE TABLE audit_log (
    audit_id INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, stream_id INTEGER NOT NULL,
    sequences TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE birth (
    stream_id INTEGER NOT NULL, after_seq INTEGER NOT NULL, append_ts INTEGER NOT NULL,
    item BLOB NOT NULL, flush_id INTEGER NOT NULL, PRIMARY KEY (stream_id, after_seq));
CREATE TABLE control (
    control_id INTEGER PRIMARY KEY, shard INTEGER NOT NULL, stream_id INTEGER NOT NULL, kind TEXT NOT NULL,
    at INTEGER NOT NULL, detail TEXT NOT NULL DEFAULT '{}', flush_id INTEGER NOT NULL);
CREATE TABLE dead_letter (
    dead_letter_id INTEGER PRIMARY KEY, received INTEGER NOT NULL, kind TEXT NOT NULL, topic TEXT NOT NULL,
    part INTEGER NOT NULL, kafka_offset INTEGER NOT NULL, stream_id INTEGER, first_seq INTEGER, rows INTEGER,
    rejected TEXT NOT NULL DEFAULT '', source TEXT, headers TEXT NOT NULL DEFAULT '{}', bytes BLOB,
    reason TEXT NOT NULL, flush_id INTEGER NOT NULL);
CREATE TABLE event (
    event_id INTEGER PRIMARY KEY, machine_id INTEGER NOT NULL, kind TEXT NOT NULL, from_ts INTEGER NOT NULL,
    to_ts INTEGER, detail TEXT NOT NULL DEFAULT '{}');
CREATE TABLE flush (
    flush_id INTEGER PRIMARY KEY, at INTEGER NOT NULL, rows INTEGER NOT NULL, points INTEGER NOT NULL,
    chunks TEXT NOT NULL);
INSERT INTO "flush" VALUES(3298534883329,1700000002000000,2,3,'[[1,1,2,7]]');
CREATE TABLE gap (
    gap_id INTEGER PRIMARY KEY, stream_id INTEGER NOT NULL, kind TEXT NOT NULL, from_ts INTEGER, to_ts INTEGER,
    from_seq INTEGER, to_seq INTEGER, flush_id INTEGER NOT NULL);
CREATE TABLE layout (
    layout_id INTEGER PRIMARY KEY, tags TEXT NOT NULL UNIQUE);
INSERT INTO "layout" VALUES(1,'[["temp","f64"],["wave","waveform"]]');
CREATE TABLE loss (
    loss_id INTEGER PRIMARY KEY, stream_id INTEGER NOT NULL, from_seq INTEGER NOT NULL, to_seq INTEGER,
    reason TEXT NOT NULL, points INTEGER, append_ts INTEGER NOT NULL, flush_id INTEGER NOT NULL);
CREATE TABLE machine (
    machine_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, attributes TEXT NOT NULL DEFAULT '{}',
    first_seen INTEGER NOT NULL);
INSERT INTO "machine" VALUES(1,'hall3/press-03','{}',1700000000000000);
CREATE TABLE operator_state (
    machine TEXT PRIMARY KEY, shard INTEGER NOT NULL, body BLOB NOT NULL, flush_id INTEGER NOT NULL);
CREATE TABLE quarantine (
    quarantine_id INTEGER PRIMARY KEY, kind TEXT NOT NULL, stream_id INTEGER NOT NULL,
    first_seq INTEGER NOT NULL, rows INTEGER NOT NULL, ts INTEGER, append_ts INTEGER NOT NULL,
    rejected TEXT NOT NULL DEFAULT '', layout BLOB, item BLOB NOT NULL, reason TEXT NOT NULL,
    flush_id INTEGER NOT NULL);
CREATE TABLE reading (
    ts INTEGER NOT NULL, machine_id INTEGER NOT NULL, stream_id INTEGER NOT NULL, seq INTEGER NOT NULL,
    flush_id INTEGER NOT NULL, append_ts INTEGER NOT NULL, quality INTEGER NOT NULL, flags INTEGER NOT NULL,
    layout_id INTEGER NOT NULL, vals TEXT, extra TEXT);
INSERT INTO "reading" VALUES(1700000001000000,1,1,1,3298534883329,1700000002000000,0,0,1,'[1.0,null]',NULL);
INSERT INTO "reading" VALUES(1700000002000000,1,1,2,3298534883329,1700000002000000,0,0,1,'[null,null]','{"temp":{"x":"7ff8000000000000"},"wave":{"format":"i16","rate":"40c3880000000000","w":"0100ffff"}}');
CREATE TABLE repair (
    view TEXT NOT NULL, version INTEGER NOT NULL, machine TEXT NOT NULL, hour INTEGER NOT NULL,
    asked INTEGER NOT NULL, PRIMARY KEY (view, version, machine, hour));
CREATE TABLE sensor (
    sensor_id INTEGER PRIMARY KEY, machine_id INTEGER NOT NULL, category TEXT NOT NULL, tag TEXT NOT NULL,
    version INTEGER NOT NULL, stream_id INTEGER NOT NULL, after_seq INTEGER NOT NULL, since INTEGER NOT NULL,
    value_type TEXT, unit TEXT, source TEXT NOT NULL, reporting TEXT NOT NULL, interval_us INTEGER,
    hold_us INTEGER NOT NULL, counter_modulus TEXT, UNIQUE (machine_id, category, tag, version));
CREATE TABLE shard (
    shard INTEGER PRIMARY KEY, fence INTEGER NOT NULL, flushes INTEGER NOT NULL, offsets TEXT NOT NULL,
    updated INTEGER NOT NULL);
INSERT INTO "shard" VALUES(3,1,1,'{"m.telemetry":6}',1700000002000000);
CREATE TABLE stream (
    stream_id INTEGER PRIMARY KEY, agent TEXT NOT NULL, epoch TEXT NOT NULL, machine_id INTEGER NOT NULL,
    category TEXT NOT NULL, shard INTEGER NOT NULL, sender TEXT NOT NULL DEFAULT '',
    numbered INTEGER NOT NULL DEFAULT 0, acknowledged INTEGER NOT NULL DEFAULT 0, complete_until INTEGER,
    seen INTEGER NOT NULL DEFAULT 0, event_ts INTEGER, append_ts INTEGER, hole_since INTEGER,
    waiting TEXT NOT NULL DEFAULT '[]', stored TEXT NOT NULL DEFAULT '', rejected TEXT NOT NULL DEFAULT '',
    lost TEXT NOT NULL DEFAULT '', given_up TEXT NOT NULL DEFAULT '', repeated INTEGER NOT NULL DEFAULT 0,
    conflicts INTEGER NOT NULL DEFAULT 0, UNIQUE (agent, epoch, machine_id, category));
INSERT INTO "stream" VALUES(1,'gw','0000000000000007',1,'telemetry',3,'0000000000000007',2,0,NULL,2,NULL,NULL,NULL,'[]','1-2','','','',0,0);
CREATE UNIQUE INDEX reading_key ON reading (machine_id, ts, stream_id, seq);
CREATE UNIQUE INDEX loss_key ON loss (stream_id, from_seq, ifnull(to_seq, -1), reason);
CREATE UNIQUE INDEX gap_key
    ON gap (stream_id, kind, ifnull(from_ts, 0), ifnull(to_ts, 0), ifnull(from_seq, 0), ifnull(to_seq, 0));
CREATE INDEX flush_at ON flush (at);
CREATE VIEW point AS
SELECT machine, category, tag, ts,
    CASE WHEN v IS NOT NULL THEN v ELSE json_extract(json_extract(x, '$.n'), '$') END AS value,
    coalesce(json_extract(x, '$.t'), json_extract(x, '$.i'), json_extract(x, '$.x'), json_extract(x, '$.b'),
        json_extract(x, '$.w')) AS text,
    coalesce(json_extract(x, '$.q'), 0) AS quality, flags, agent, epoch, seq, append_ts
FROM (
    SELECT r.ts, m.name AS machine, s.category, json_extract(c.value, '$[0]') AS tag,
        json_extract(r.vals, '$[' || c.key || ']') AS v,
        (SELECT e.value FROM json_each(r.extra) AS e WHERE e.key = json_extract(c.value, '$[0]')) AS x,
        r.flags, s.agent, s.epoch, r.seq, r.append_ts
    FROM reading AS r JOIN machine AS m USING (machine_id) JOIN stream AS s USING (stream_id)
        JOIN layout AS l USING (layout_id), json_each(l.tags) AS c)
WHERE v IS NOT NULL OR x IS NOT NULL;
CREATE VIEW newest AS
SELECT machine, category, tag, max(ts) AS ts, value, text, quality,
    unixepoch('subsec') - max(ts) / 1000000.0 AS age_s
FROM point GROUP BY machine, category, tag;
CREATE VIEW ledger AS
SELECT agent, epoch, m.name AS machine, category, shard, numbered, acknowledged, seen, stored, rejected, lost,
    given_up, repeated, conflicts, complete_until, event_ts, append_ts, waiting
FROM stream JOIN machine AS m USING (machine_id);
PRAGMA user_version = 1;
