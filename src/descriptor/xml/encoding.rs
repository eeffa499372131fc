//! From the bytes of a file to its text.

/// Turns the bytes of a file into text: UTF-8, with or without a byte order mark, US-ASCII or ISO-8859-1.
pub(crate) fn decode(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.starts_with(&[0xFE, 0xFF]) || bytes.starts_with(&[0xFF, 0xFE]) {
        return Err("the file is in UTF-16; save it as UTF-8".to_owned());
    }
    let body = bytes.strip_prefix(&[0xEF, 0xBB, 0xBF]).unwrap_or(&bytes);
    let marked = body.len() != bytes.len();
    let encoding = declared_encoding(body).unwrap_or_else(|| "UTF-8".to_owned());
    match encoding.to_ascii_uppercase().as_str() {
        "ISO-8859-1" | "LATIN1" | "ISO_8859-1" if !marked => {
            Ok(body.iter().map(|b| char::from(*b)).collect())
        }
        "US-ASCII" | "ASCII" => match body.iter().position(|b| !b.is_ascii()) {
            Some(at) => Err(format!(
                "byte {} at offset {at} is no US-ASCII, which the file says it is",
                body[at]
            )),
            None => utf8(body.to_vec()),
        },
        "UTF-8" | "UTF8" if marked => utf8(body.to_vec()),
        "UTF-8" | "UTF8" => utf8(bytes),
        _ => Err(format!(
            "the encoding '{encoding}' is not supported; use UTF-8, ISO-8859-1 or US-ASCII"
        )),
    }
}

fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
        format!("line {line} is not valid UTF-8; if the file is in ISO-8859-1, its first line has to say so")
    })
}

/// Returns the encoding that the XML declaration names.
fn declared_encoding(body: &[u8]) -> Option<String> {
    let declaration = body.strip_prefix(b"<?xml")?;
    let end = declaration.windows(2).take(1000).position(|w| w == b"?>")?;
    let declaration: String = declaration[..end].iter().map(|b| char::from(*b)).collect();
    let (_, after) = declaration.split_once("encoding")?;
    let after = after.trim_start().strip_prefix('=')?.trim_start();
    let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    after[1..].split(quote).next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_it_says_it_decodes() {
        assert_eq!(decode(b"\xEF\xBB\xBF<a/>".to_vec()).unwrap(), "<a/>");
        assert_eq!(
            decode(b"<?xml version='1.0' encoding='iso-8859-1'?>\xFC".to_vec())
                .unwrap()
                .chars()
                .last(),
            Some('ü')
        );
        assert!(
            decode(b"\xFC".to_vec())
                .unwrap_err()
                .contains("line 1 is not valid UTF-8")
        );
        assert!(
            decode(b"<?xml version='1.0' encoding='KOI8-R'?>".to_vec())
                .unwrap_err()
                .contains("KOI8-R")
        );
        assert!(
            decode(b"\xFF\xFE<\0".to_vec())
                .unwrap_err()
                .contains("UTF-16")
        );
        assert!(decode(b"<?xml version='1.0' encoding='US-ASCII'?>\xFC".to_vec()).is_err());
    }
}
