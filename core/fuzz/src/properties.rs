//! Paths of properties (`weir_core::abi::properties`).

use std::borrow::Cow;

use weir_core::abi::properties::{Properties, Target, normalize, resolve};

use crate::input::Input;

/// The first segment of the proxy's own variables.
const NATIVE: &[u8] = b"ngx";

/// Tries one input.
///
/// # Panics
/// When a path is not what it should be.
pub fn run(bytes: &[u8]) {
    path(bytes);
    stored(Input::new(bytes));
}

/// A path in its one form leads to one place, and a header or variable that it names is the end of it.
fn path(bytes: &[u8]) {
    let normal = normalize(bytes, NATIVE);
    assert!(normal.len() <= bytes.len());
    if let Cow::Owned(changed) = &normal {
        // Only dots have become NULs.
        let same = |(new, old): (&u8, &u8)| new == old || (*new == 0 && *old == b'.');
        assert!(changed.iter().zip(bytes).all(same));
        assert_eq!(&*normalize(changed, NATIVE), changed.strip_suffix(b"\0").unwrap_or(changed));
    }
    match resolve(&normal, NATIVE) {
        Target::Header(_, name) => {
            assert!(normal.ends_with(name));
            let before = normal.len() - name.len();
            assert!(matches!(
                &normal[..before],
                b"request\0headers\0" | b"response\0headers\0" | b"response\0trailers\0"
            ));
        }
        Target::Native(name) => assert_eq!(&*normal, [b"ngx\0", name].concat()),
        Target::Map(_) => assert!(normal.ends_with(b"headers") || normal.ends_with(b"trailers")),
        Target::Attribute(_) => {
            // The same path with dots leads to the same attribute.
            let dotted: Vec<u8> = normal.iter().map(|byte| if *byte == 0 { b'.' } else { *byte }).collect();
            let again = normalize(&dotted, NATIVE);
            assert_eq!(resolve(&again, NATIVE), resolve(&normal, NATIVE));
        }
        Target::PluginName | Target::PluginRootId | Target::PluginVmId | Target::PluginVmMemory => {
            assert!(normal.starts_with(b"plugin_"))
        }
        Target::ListenerDirection => assert_eq!(&*normal, b"listener_direction"),
        Target::CallError => assert_eq!(&*normal, b"call\0error"),
        Target::Stored => {}
    }
}

/// What was set last under a path is what is found there.
fn stored(mut input: Input<'_>) {
    let mut stored = Properties::default();
    let mut model: Vec<(&[u8], &[u8])> = Vec::new();
    while !input.is_empty() {
        let (path, value) = (usize::from(input.byte() % 4), usize::from(input.byte() % 16));
        let (path, value) = (input.bytes(path), input.bytes(value));
        stored.set(path, value, false).expect("far below the bounds");
        model.retain(|(other, _)| *other != path);
        model.push((path, value));
        if model.len() > 64 {
            break;
        }
    }
    for (path, value) in &model {
        assert_eq!(stored.get(path), Some(*value));
    }
    stored.clear();
    assert!(model.iter().all(|(path, _)| stored.get(path).is_none()));
}
