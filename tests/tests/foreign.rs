//! Foreign functions whose work nginx's libraries do: signatures, and compression next to them. What each makes of wrong
//! arguments is in core/tests.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, SigningKey};
use weir_tests::{Conf, Nginx, Request};

/// A key of RSA with 2048 bits, for these tests alone: making one takes seconds.
const RSA: &str = include_str!("rsa.pem");

fn nginx() -> Nginx {
    Nginx::start(Conf::new().guest("foreign").server("location / { proxy_wasm foreign; return 500; }"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn call(nginx: &Nginx, name: &str, arguments: &[u8]) -> Result<Vec<u8>, String> {
    let response =
        nginx.send(Request::get("/").header("x-function", name).header("x-arguments", &hex(arguments)));
    match response.status {
        200 => Ok(unhex(&response.text())),
        400 => Err(response.text()),
        other => panic!("status {other}"),
    }
}

/// A message of protocol buffers: fields of type bytes.
fn message(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, bytes) in fields {
        let len = u16::try_from(bytes.len()).expect("short");
        let [low, high] = [len & 0x7f | 0x80, len >> 7].map(|part| u8::try_from(part).expect("7 bits"));
        message.extend_from_slice(&[number << 3 | 2, low, high]);
        message.extend_from_slice(bytes);
    }
    message
}

/// A private key in version 1 of PKCS #8: keys of Ed25519 come in version 2, with the public one, which OpenSSL 3 does not
/// read.
fn version_1(key: &KeyPair) -> Vec<u8> {
    const ED25519: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    let der = key.serialize_der();
    if der[7..12] == ED25519[7..12] { [&ED25519, &der[16..48]].concat() } else { der }
}

/// The field that comes after `result`, which is true.
fn good(result: &[u8]) -> Vec<u8> {
    assert_eq!(result[..2], [0x08, 1], "{}", String::from_utf8_lossy(result));
    // A length below 128 is one byte, a longer one two.
    let length = if result.get(3).is_some_and(|byte| *byte >= 128) { 2 } else { 1 };
    result.get(3 + length..).unwrap_or_default().to_vec()
}

#[test]
fn openssl_signs_and_verifies() {
    let nginx = nginx();
    let keys = [
        (KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256), &b"sha256"[..]),
        (KeyPair::generate_for(&PKCS_ED25519), b""),
        (KeyPair::from_pem_and_sign_algo(RSA, &PKCS_RSA_SHA256), b"sha256"),
    ];
    for (key, digest) in keys {
        let key = key.expect("a key");
        let (public, private) = (key.subject_public_key_info(), version_1(&key));
        let text = b"what is signed";
        let verify = |signature: &[u8], text: &[u8]| {
            let arguments = message(&[(1, digest), (2, &public), (3, signature), (4, text)]);
            call(&nginx, "verify_signature", &arguments).expect("OK")
        };
        // Ours by us, ours by another, another's by us; each as DER and as text.
        let signed = call(&nginx, "sign", &message(&[(1, digest), (2, &private), (3, text)])).expect("OK");
        let ours = good(&signed);
        let theirs = key.sign(text).expect("signed");
        for signature in [&ours, &theirs] {
            good(&verify(signature, text));
            let changed = verify(signature, b"something else");
            assert_eq!(changed[0], 0x12, "an error alone");
        }
        let public_pem = key.public_key_pem();
        let arguments = message(&[(1, digest), (5, public_pem.as_bytes()), (3, &theirs), (4, text)]);
        good(&call(&nginx, "verify_signature", &arguments).expect("OK"));
        let mut broken = ours.clone();
        broken[5] ^= 1;
        assert_eq!(verify(&broken, text)[0], 0x12, "an error alone");
    }
    let key = KeyPair::generate().expect("a key");
    let pem = key.serialize_pem();
    good(&call(&nginx, "sign", &message(&[(1, b"SHA384"), (4, pem.as_bytes()), (3, b"")])).expect("OK"));
    assert_eq!(call(&nginx, "sign", &message(&[(2, b"no key"), (3, b"")])), Err("BadArgument".into()));
}

#[test]
fn bytes_are_compressed_and_come_back() {
    let nginx = nginx();
    let text = b"say it again, ".repeat(50);
    let compressed = call(&nginx, "compress", &text).expect("OK");
    assert!(compressed.len() < 100, "{} bytes", compressed.len());
    assert_eq!(call(&nginx, "uncompress", &compressed).as_deref(), Ok(&text[..]));
    assert_eq!(call(&nginx, "uncompress", b"nonsense"), Err("SerializationFailure".into()));
    assert_eq!(call(&nginx, "nonsense", b""), Err("NotFound".into()));
}

/// A property that a root context has declared read-only is set once in a request, for all filters, and anew in the next.
#[test]
fn declared_properties_are_set_once() {
    for isolation in ["stream", "filter", "none"] {
        let nginx = Nginx::start(Conf::new().guest("declares").guest("properties").server(&format!(
            "location / {{
                     proxy_wasm_isolation {isolation};
                     proxy_wasm declares 'fixed';
                     proxy_wasm properties 'fixed free';
                     return 200 ok;
                 }}"
        )));
        for turn in ["first", "second"] {
            let asked = format!("fixed={turn} free=a fixed=other free=b");
            let response = nginx.send(Request::get("/").header("x-set", &asked)).expect_status(200);
            assert_eq!(response.header("x-seen"), Some(format!("{turn} b {turn} b").as_str()), "{isolation}");
            assert_eq!(response.header("x-prop-0"), Some(hex(turn.as_bytes()).as_str()), "{isolation}");
            assert_eq!(response.header("x-prop-1"), Some(hex(b"b").as_str()), "{isolation}");
            let _ = nginx.wait_for_log("property \"fixed\" was not set: it can be set once only");
        }
    }
    let twice = "location / { proxy_wasm declares 'fixed fixed'; return 200 ok; }";
    let _ = Nginx::start(Conf::new().guest("declares").server(twice)).get("/").expect_status(200);
    let long = "x".repeat(20) + " ";
    let many: String = (0..65).map(|number| format!("{number}{long}")).collect();
    let ended = Nginx::check(
        &Conf::new()
            .guest("declares")
            .server(&format!("location / {{ proxy_wasm declares '{many}'; return 200 ok; }}")),
    );
    assert!(ended.stderr.contains("does not accept its configuration"), "{}", ended.stderr);
}
