//! Records as JSON and back: one line per record, readable, without loss.
//!
//! Each table's keys and values have a form. Invariant: a line reads back as the very record; one that would not (another program's
//! fields, a damaged value) has its bytes in hexadecimal instead.

use super::file::Record;
use bytes::{BufMut, Bytes, BytesMut};
use dfs_proto::json::bytes::{from_hex, to_hex};
use dfs_proto::v1;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

enum KeyForm {
    /// Numbers of 8 bytes.
    Numbers(&'static [&'static str]),
    /// A number of 4 bytes.
    Small(&'static str),
    /// A number of 8 bytes, then bytes.
    NumberAndName(&'static str),
    Chunk,
    /// Numbers of 4 bytes.
    Replicas,
    /// What is not a table.
    Name,
}

enum ValueForm {
    Empty,
    Bytes,
    /// 8 bytes.
    Number,
    /// 4 bytes.
    Small,
    Message(Codec),
    Opaque,
}

#[derive(Clone, Copy)]
struct Codec {
    to_json: fn(&[u8]) -> Option<Value>,
    from_json: fn(Value) -> Result<Vec<u8>, String>,
}

struct Table {
    prefix: u8,
    name: &'static str,
    key: KeyForm,
    value: ValueForm,
}

fn to_json<M: Message + Default + Serialize>(bytes: &[u8]) -> Option<Value> {
    serde_json::to_value(M::decode(bytes).ok()?).ok()
}

fn from_json<M: Message + Default + DeserializeOwned>(value: Value) -> Result<Vec<u8>, String> {
    let message: M = serde_json::from_value(value).map_err(|error| error.to_string())?;
    Ok(message.encode_to_vec())
}

const fn message<M: Message + Default + Serialize + DeserializeOwned>() -> ValueForm {
    ValueForm::Message(Codec {
        to_json: to_json::<M>,
        from_json: from_json::<M>,
    })
}

const fn table(prefix: u8, name: &'static str, key: KeyForm, value: ValueForm) -> Table {
    Table {
        prefix,
        name,
        key,
        value,
    }
}

/// In the order of their prefixes, which are those of [`crate::namespace::keys`].
static TABLES: [Table; 21] = [
    table(b'c', "chunks", KeyForm::Chunk, message::<v1::StoredChunk>()),
    table(
        b'd',
        "listing",
        KeyForm::Numbers(&["parent", "cursor"]),
        message::<v1::StoredCursor>(),
    ),
    table(
        b'e',
        "extents",
        KeyForm::Numbers(&["map", "end"]),
        message::<v1::StoredExtent>(),
    ),
    table(
        b'f',
        "freed_chunks",
        KeyForm::Chunk,
        message::<v1::StoredFreedChunk>(),
    ),
    table(
        b'g',
        "placement_groups",
        KeyForm::Small("group"),
        message::<v1::PlacementGroup>(),
    ),
    table(
        b'h',
        "further_names",
        KeyForm::Numbers(&["ino", "parent", "cursor"]),
        ValueForm::Empty,
    ),
    table(
        b'i',
        "inodes",
        KeyForm::Numbers(&["ino"]),
        message::<v1::StoredInode>(),
    ),
    table(
        b'j',
        "quotas",
        KeyForm::Numbers(&["ino"]),
        message::<v1::StoredQuota>(),
    ),
    table(b'k', "spent_chunks", KeyForm::Chunk, ValueForm::Empty),
    table(b'l', "replica_sets", KeyForm::Replicas, ValueForm::Number),
    table(b'm', "meta", KeyForm::Name, ValueForm::Opaque),
    table(b'n', "nodes", KeyForm::Small("node"), message::<v1::StoredNode>()),
    table(
        b'o',
        "orphans",
        KeyForm::Numbers(&["ino"]),
        message::<v1::StoredOrphan>(),
    ),
    table(
        b'q',
        "replaced",
        KeyForm::Numbers(&["at_ms", "ino"]),
        ValueForm::Empty,
    ),
    table(
        b'r',
        "replies",
        KeyForm::Numbers(&["session", "number"]),
        ValueForm::Opaque,
    ),
    table(
        b's',
        "sessions",
        KeyForm::Numbers(&["session"]),
        message::<v1::StoredSession>(),
    ),
    table(
        b't',
        "entries",
        KeyForm::NumberAndName("parent"),
        message::<v1::StoredDentry>(),
    ),
    table(b'u', "unsynced", KeyForm::Numbers(&["epoch"]), ValueForm::Number),
    table(
        b'v',
        "usage",
        KeyForm::Numbers(&["ino"]),
        message::<v1::StoredUsage>(),
    ),
    table(
        b'w',
        "reaps",
        KeyForm::Numbers(&["map"]),
        message::<v1::StoredReap>(),
    ),
    table(b'x', "xattrs", KeyForm::NumberAndName("ino"), ValueForm::Bytes),
];

static COUNTERS: ValueForm = message::<v1::StoredCounters>();
static DURABILITY: ValueForm = message::<v1::StoredDurability>();
static RESTORE: ValueForm = message::<v1::StoredRestore>();

impl Table {
    /// The form of the value under `key`: what is not a table has a form of its own for each name.
    fn value_form(&self, key: &[u8]) -> &ValueForm {
        match key {
            b"mcounters" => &COUNTERS,
            b"mdurability" => &DURABILITY,
            b"mrestore" => &RESTORE,
            b"mschema" => &ValueForm::Small,
            _ if self.prefix == b'm' => &ValueForm::Number,
            _ => &self.value,
        }
    }
}

fn bytes_value(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "hex": to_hex(bytes) }),
    }
}

fn bytes_from(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(object) if object.len() == 1 => from_hex(object.get("hex")?.as_str()?),
        _ => None,
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn small(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn key_to_json(form: &KeyForm, rest: &[u8]) -> Option<Value> {
    let mut object = Map::new();
    match form {
        KeyForm::Numbers(names) => {
            let (numbers, odd) = rest.as_chunks::<8>();
            if !odd.is_empty() || numbers.len() != names.len() {
                return None;
            }
            for (name, bytes) in names.iter().zip(numbers) {
                object.insert((*name).to_owned(), u64::from_be_bytes(*bytes).into());
            }
        }
        KeyForm::Small(name) => {
            object.insert((*name).to_owned(), small(rest)?.into());
        }
        KeyForm::NumberAndName(name) => {
            let (first, text) = rest.split_at_checked(8)?;
            object.insert((*name).to_owned(), number(first)?.into());
            object.insert("name".to_owned(), bytes_value(text));
        }
        KeyForm::Chunk => {
            object.insert("chunk".to_owned(), to_hex(rest).into());
        }
        KeyForm::Replicas => {
            let (nodes, odd) = rest.as_chunks::<4>();
            if !odd.is_empty() {
                return None;
            }
            let nodes: Vec<u32> = nodes.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect();
            object.insert("replicas".to_owned(), nodes.into());
        }
        KeyForm::Name => {
            object.insert("name".to_owned(), bytes_value(rest));
        }
    }
    Some(Value::Object(object))
}

fn key_from_json(table: &Table, key: &Value) -> Option<Bytes> {
    let object = key.as_object()?;
    let mut bytes = BytesMut::new();
    bytes.put_u8(table.prefix);
    let fields = match &table.key {
        KeyForm::Numbers(names) => {
            for name in *names {
                bytes.put_u64(object.get(*name)?.as_u64()?);
            }
            names.len()
        }
        KeyForm::Small(name) => {
            bytes.put_u32(u32::try_from(object.get(*name)?.as_u64()?).ok()?);
            1
        }
        KeyForm::NumberAndName(name) => {
            bytes.put_u64(object.get(*name)?.as_u64()?);
            bytes.put_slice(&bytes_from(object.get("name")?)?);
            2
        }
        KeyForm::Chunk => {
            bytes.put_slice(&from_hex(object.get("chunk")?.as_str()?)?);
            1
        }
        KeyForm::Replicas => {
            for node in object.get("replicas")?.as_array()? {
                bytes.put_u32(u32::try_from(node.as_u64()?).ok()?);
            }
            1
        }
        KeyForm::Name => {
            bytes.put_slice(&bytes_from(object.get("name")?)?);
            1
        }
    };
    (object.len() == fields).then(|| bytes.freeze())
}

fn value_to_json(form: &ValueForm, value: &[u8]) -> Option<Value> {
    match form {
        ValueForm::Empty => value.is_empty().then_some(Value::Null),
        ValueForm::Bytes => Some(bytes_value(value)),
        ValueForm::Number => number(value).map(Value::from),
        ValueForm::Small => small(value).map(Value::from),
        ValueForm::Message(codec) => (codec.to_json)(value),
        ValueForm::Opaque => None,
    }
}

fn value_from_json(form: &ValueForm, value: Value) -> Result<Bytes, String> {
    let needed = |what: &str| format!("its value must be {what}");
    Ok(match form {
        ValueForm::Empty => match value {
            Value::Null => Bytes::new(),
            _ => return Err(needed("null")),
        },
        ValueForm::Bytes => bytes_from(&value)
            .ok_or_else(|| needed("text, or {\"hex\": ...}"))?
            .into(),
        ValueForm::Number => {
            let number = value.as_u64().ok_or_else(|| needed("a number"))?;
            Bytes::copy_from_slice(&number.to_be_bytes())
        }
        ValueForm::Small => {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
            Bytes::copy_from_slice(&number.ok_or_else(|| needed("a number below 2^32"))?.to_be_bytes())
        }
        ValueForm::Message(codec) => (codec.from_json)(value)?.into(),
        ValueForm::Opaque => return Err("it needs value_hex".to_owned()),
    })
}

/// A record as a line of JSON, without its end.
pub fn line(key: &Bytes, value: &Bytes) -> String {
    let table = key
        .first()
        .and_then(|prefix| TABLES.iter().find(|table| table.prefix == *prefix));
    if let Some(table) = table
        && let Some(shown) = key_to_json(&table.key, &key[1..])
        && key_from_json(table, &shown).as_ref() == Some(key)
    {
        let form = table.value_form(key);
        let readable = value_to_json(form, value)
            .filter(|shown| value_from_json(form, shown.clone()).as_ref() == Ok(value));
        // The table first, for people; the names are ours and need no escaping.
        return match readable {
            Some(readable) => format!(r#"{{"table":"{}","key":{shown},"value":{readable}}}"#, table.name),
            None => format!(
                r#"{{"table":"{}","key":{shown},"value_hex":"{}"}}"#,
                table.name,
                to_hex(value)
            ),
        };
    }
    format!(
        r#"{{"key_hex":"{}","value_hex":"{}"}}"#,
        to_hex(key),
        to_hex(value)
    )
}

/// The record of a line.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn record(mut object: Map<String, Value>) -> Result<Record, String> {
    let hex = |value: Value| {
        let bytes = value.as_str().and_then(from_hex).map(Bytes::from);
        bytes.ok_or_else(|| "pairs of hexadecimal digits are needed".to_owned())
    };
    let raw = object.remove("value_hex").map(hex).transpose()?;
    let (key, form) = match object.remove("key_hex") {
        Some(key) => (hex(key)?, &ValueForm::Opaque),
        None => {
            let name = object.remove("table");
            let name = name.as_ref().and_then(Value::as_str).ok_or("it names no table")?;
            let table = TABLES.iter().find(|table| table.name == name);
            let table = table.ok_or_else(|| format!("there is no table {name:?}"))?;
            let key = object.remove("key").ok_or("it has no key")?;
            let key = key_from_json(table, &key).ok_or_else(|| format!("its key is not one of {name}"))?;
            let form = table.value_form(&key);
            (key, form)
        }
    };
    let value = match (raw, object.remove("value")) {
        (Some(raw), None) => raw,
        (None, Some(value)) => value_from_json(form, value)?,
        _ => return Err("it needs either value or value_hex".to_owned()),
    };
    match object.keys().next() {
        Some(unknown) => Err(format!("it has an unknown field {unknown:?}")),
        None => Ok((key, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::keys;

    fn back(line: &str) -> Result<Record, String> {
        record(serde_json::from_str(line).unwrap())
    }

    #[test]
    fn every_record_reads_back_whatever_is_in_it() {
        let odd: [&[u8]; 6] = [b"", b"\0", b"\xff\xfe", b"text", &[0; 8], &[7; 33]];
        for prefix in 0..=255u8 {
            for rest in odd {
                for value in odd {
                    let key = Bytes::from([&[prefix][..], rest].concat());
                    let value = Bytes::copy_from_slice(value);
                    let shown = line(&key, &value);
                    assert_eq!(back(&shown), Ok((key, value)), "{shown}");
                }
            }
        }
    }

    #[test]
    fn tables_are_those_of_the_keys() {
        for (range, name) in [
            (keys::chunks(), "chunks"),
            (keys::cursors(), "listing"),
            (keys::extents(), "extents"),
            (keys::freed_chunks(), "freed_chunks"),
            (keys::placement_groups(), "placement_groups"),
            (keys::inodes(), "inodes"),
            (keys::replica_sets(), "replica_sets"),
            (keys::meta(), "meta"),
            (keys::nodes(), "nodes"),
            (keys::orphans(), "orphans"),
            (keys::replaced_inodes(), "replaced"),
            (keys::sessions(), "sessions"),
            (keys::dentries(), "entries"),
            (keys::unsynced_commits(), "unsynced"),
            (keys::reaps(), "reaps"),
            (keys::xattrs(), "xattrs"),
        ] {
            let table = TABLES.iter().find(|table| table.name == name).unwrap();
            assert_eq!(range.0[..], [table.prefix], "{name}");
        }
    }

    #[test]
    fn lines_are_for_people_and_wrong_ones_are_named() {
        let key = Bytes::from([&b"t\0\0\0\0\0\0\0\x01"[..], b"caf\xc3\xa9"].concat());
        let entry = v1::StoredDentry {
            ino: 7,
            kind: 1,
            cursor: 7,
        };
        let shown = line(&key, &Bytes::from(entry.encode_to_vec()));
        assert_eq!(
            shown,
            r#"{"table":"entries","key":{"name":"café","parent":1},"value":{"cursor":7,"ino":7,"kind":1}}"#
        );
        let edited = shown.replace("\"ino\":7", "\"ino\":8");
        let entry = v1::StoredDentry::decode(back(&edited).unwrap().1).unwrap();
        assert_eq!(entry.ino, 8);
        for (from, to, words) in [
            ("\"ino\":7", "\"inode\":7", "unknown field"),
            ("entries", "entrees", "no table"),
            ("\"parent\":1", "\"parent\":-1", "key is not one of"),
            ("\"value\":", "\"valve\":", "either value"),
            ("{\"table\"", "{\"more\":1,\"table\"", "unknown field"),
        ] {
            let error = back(&shown.replace(from, to)).unwrap_err();
            assert!(error.contains(words), "{to}: {error}");
        }
    }
}
