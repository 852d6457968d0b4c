//! How stored messages are shown as JSON: the forms of fields that JSON has no type for.

/// Bytes: a string if they are UTF-8, else `{"hex": "..."}`. For `#[serde(with = "...")]`; nothing is lost either way.
pub mod bytes {
    use bytes::Bytes;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged, deny_unknown_fields)]
    enum Form {
        Text(String),
        Hex { hex: String },
    }

    /// As JSON.
    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        let form = match std::str::from_utf8(bytes) {
            Ok(text) => Form::Text(text.to_owned()),
            Err(_) => Form::Hex { hex: to_hex(bytes) },
        };
        form.serialize(serializer)
    }

    /// The inverse of [`serialize`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        match Form::deserialize(deserializer)? {
            Form::Text(text) => Ok(Bytes::from(text)),
            Form::Hex { hex } => from_hex(&hex)
                .map(Bytes::from)
                .ok_or_else(|| D::Error::custom("pairs of hexadecimal digits are needed")),
        }
    }

    /// Lower-case hexadecimal digits.
    pub fn to_hex(bytes: &[u8]) -> String {
        use std::fmt::Write;
        let mut text = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// The inverse of [`to_hex`]; `None` for anything else than pairs of digits.
    pub fn from_hex(text: &str) -> Option<Vec<u8>> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let digit = |byte: u8| (byte as char).to_digit(16);
        let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? * 16 + digit(*low)?) as u8);
        rest.is_empty().then(|| pairs.iter().map(byte).collect())?
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn hexadecimal_has_every_byte_and_nothing_else_is_taken() {
            let all: Vec<u8> = (0..=255).collect();
            assert_eq!(from_hex(&to_hex(&all)), Some(all));
            for wrong in ["0", "0g", "+1", "é"] {
                assert_eq!(from_hex(wrong), None, "{wrong}");
            }
        }
    }
}
