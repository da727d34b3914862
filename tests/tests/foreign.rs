//! Foreign functions whose work nginx's libraries do: signatures, and compression next to them. What each makes of wrong
//! arguments is in core/tests.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, SigningKey};
use weir_tests::{Conf, Nginx, Request};

/// A key of RSA with 2048 bits, for these tests alone: making one takes seconds.
const RSA: &str = "\
-----BEGIN PRIVATE KEY-----
MIIEvAIBADANBgkqhkiG9w0BAQEFAASCBKYwggSiAgEAAoIBAQCQCeB3aDxvrbW0
OAODd5o+1YQ8IqOT8KVfORIBIjeNq6LB8w+H6pgMdidcWTLATEO7OrcVuSQuwE5h
qm5TVLPEaTdvmS3lB7hYqPs7LlI7R6He0haSOc4I+heWTL/df8bZA2Wv5Umyf/Qf
Y/3och7bXXIhkB3xaOGiy/sL2gtVRdbMVJFCf3E2aiSTh47N3Ik1RMyQo9jpTs/W
AoxPSSsRA5cb7CoX+n6xU67dhjnyY+8pbMOlBdaDwsnHq5ShysiPTPCLab8aJHKg
bD0M0OBDRpOEo+acKukK1gdNZKcfMB9MUVSLLDQnjPxdT42oB32wqXOf0M8PT/6C
YJO9UxcvAgMBAAECggEACH7ko/ZcdjPXP1F8d5Ei4mjim09puYycnHC3zKRRhYQl
ne3xsREXtch0SuCh+zCkYBM3AEuCxFUoal9MkZKx5bhVAjqVN+iMKYKSCuwRApkX
hZZ7qVVKf0INCRruyChEuMEYCtdp0OL2KbHSpJayljq9RBiFg5stj9YbMRhDydw1
fknYJueT6bePW/KOoN9HCuoBPfPmptBB9NIYKdig1ZZhKVezwsHeTS8r/OT8MILI
j10m5oeKm2uNxIKMz9qJghVRgcEVmzqk9M7c6PttdmhZlCGKxSNdFzi9oKojW7j4
MzHHKw2twbieTnmfpVfV2NuhcFmMPlguOR+6LKOn+QKBgQDLPZkWZ8PYFoCV4i1P
mKrRPu2XWKjIol9wx/dQOAKBgQpLtyKyMqG/S4q/ab5Dnvbs/GabamtP7iFvEDWQ
+AOfqf7YfrnstLNyz5hLalNpZUD4Q4BT68Ggoem7mbQQNNm+WE++01c0zGu3Y0UJ
H1wujBr+L0gTSUmSpk+EpSxaOQKBgQC1bf5wcLiyPPzbg/WkrAtpeIGmI2hlshAi
wAZ3qnqjdIqt271PEdezX7oW0duxN+kL97sBV3t9SDvIc0rhGWFYVtzOkOcY8LMu
RuwipyMAh9+G5BUK8feOX3a4SYKxWWDQiNpBUra2FSLsW+VbPl0mGjn/9FOUio7x
jTGW97YcpwKBgB/DFqObv82LZrkFydMApuFgljzqzCXeyk+T0KCmwC2A/xzqF/AF
XaXJpntXiTaEJ07N+zMapH6vVmZHADgRqm9PX9Zxp5jIfKraqpBOo457FnY2Bl4X
IAF8jEyXLr7Bo63Nm1jVKnHD6KmWR/mu/vb/SlCjDv6Em4zhlNfEAHRxAoGALnjt
Srnk5Wrvzf7AJh0Xkz2V4AuDy0DQF0aeoXpejY3lk+EMXbuRR9YGYaABqSRMIo+j
LBXPgOjGv3KgxIXuxGUDjDnbqCzHiNwL0liDg7hKDlBP/4y5P5O+YjgaLPla7i+P
0FmyiXNija6AUl3oGEFxh9l6qzrOoJrtD+GFmVMCgYAi+Jkuffxyk/SEx8RSFXj5
MaInuJ3Y1PLuImcGipxS7W4Oe2M1bSyzsgicxP6QMzDTxOPfd2oOWsv3OT2fZPEG
E+syiG9KMD/1qI6xchw2arwK+TYR4im9V5ARr98r8P7uQvSUODWubS2AgO4uwQNS
FvWRMcnt+0C5s6WuANefYA==
-----END PRIVATE KEY-----
";

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
