//! A page's source, looked at as strictly as XML: every element is closed, in order, and every `<`
//! and `&` that is not markup is escaped.

/// Elements that have no end.
const VOID: [&str; 4] = ["meta", "br", "link", "img"];

/// Panics where a page is not well-formed. Returns the names of its elements, in order.
pub fn check(page: &str) -> Vec<String> {
    let mut rest = page
        .trim()
        .strip_prefix("<!DOCTYPE html>")
        .expect("a doctype");
    let (mut open, mut all): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    while let Some(at) = rest.find('<') {
        check_text(&rest[..at]);
        let end = rest[at..].find('>').expect("a tag ends") + at;
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed in order");
            continue;
        }
        // In a drawing an element may end with its start.
        let (tag, is_over) = tag
            .strip_suffix('/')
            .map_or((tag, false), |tag| (tag, true));
        let name: String = tag
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        assert!(!name.is_empty(), "<{tag}> is no tag");
        check_attributes(tag[name.len()..].trim_end());
        all.push(name.clone());
        if name == "style" {
            // Its content is no markup, up to its end.
            rest = &rest[rest.find("</style>").expect("the style ends")..];
        }
        if !is_over && !VOID.contains(&name.as_str()) {
            open.push(name);
        }
    }
    check_text(rest);
    assert!(open.is_empty(), "not closed: {open:?}");
    all
}

fn check_attributes(mut rest: &str) {
    while !rest.is_empty() {
        rest = rest.strip_prefix(' ').expect("a blank before an attribute");
        let equals = rest.find("=\"").expect("an attribute has a quoted value");
        let name = &rest[..equals];
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        assert!(!name.is_empty() && name.bytes().all(is_name), "{name:?}");
        let value = &rest[equals + 2..];
        let end = value.find('"').expect("the value ends");
        check_text(&value[..end]);
        rest = &value[end + 1..];
    }
}

fn check_text(text: &str) {
    for (at, _) in text.match_indices('&') {
        let is_reference = ["&amp;", "&lt;", "&gt;", "&quot;", "&#"]
            .iter()
            .any(|known| text[at..].starts_with(known));
        assert!(is_reference, "a lone & in {text:?}");
    }
    assert!(!text.contains('>'), "a lone > in {text:?}");
}
