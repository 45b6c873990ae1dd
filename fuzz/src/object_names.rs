//! Names of objects: one spelling each, in both forms, and both in one order.

use vhashify::store::ObjectName;

/// Tries one input.
///
/// # Panics
/// The parser does not do what is said above.
pub fn check(input: &[u8]) {
    let parsed = ObjectName::parse(input);
    // What a name is, said once more in the plainest way.
    assert_eq!(parsed.is_some(), is_canonical(input));
    if let Some(name) = parsed {
        assert_eq!(name.to_string().as_bytes(), input);
        survives(name);
    }
    let mut names = Vec::new();
    for chunk in input.as_chunks::<{ ObjectName::LENGTH }>().0.iter().take(2) {
        let name = ObjectName::from_bytes(chunk);
        assert_eq!(name.is_some(), chunk[48] <= 1);
        if let Some(name) = name {
            assert_eq!(name.to_bytes(), *chunk);
            survives(name);
            names.push(name);
        }
    }
    if let [first, second] = names[..] {
        assert_eq!(first.cmp(&second), first.to_bytes().cmp(&second.to_bytes()));
        assert_eq!(first == second, first.to_string() == second.to_string());
    }
}

fn survives(name: ObjectName) {
    let text = name.to_string();
    assert_eq!(ObjectName::parse(text.as_bytes()), Some(name));
    assert_eq!(ObjectName::from_bytes(&name.to_bytes()), Some(name));
    // A name is one component of a path, and its first bytes may name a directory.
    assert!(
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    );
}

fn is_canonical(input: &[u8]) -> bool {
    let parts: Vec<_> = input.split(|byte| *byte == b'-').collect();
    let ([digest, fingerprint, instance] | [digest, fingerprint, b"nomtime", instance]) = parts[..]
    else {
        return false;
    };
    let is_hex = |part: &[u8], length| {
        part.len() == length && part.iter().all(|byte| b"0123456789abcdef".contains(byte))
    };
    let is_number = match instance {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => {
            // Of ten digits the larger number is the later text.
            let longest = b"4294967295";
            rest.iter().all(u8::is_ascii_digit)
                && (instance.len() < longest.len()
                    || instance.len() == longest.len() && instance <= longest.as_slice())
        }
        _ => false,
    };
    is_hex(digest, 64) && is_hex(fingerprint, 32) && is_number
}
