//! The system's certificates, for those who name no file of trusted ones.
//!
//! `SSL_CTX_set_default_verify_paths()` decodes all certificates of the system's file at once, which takes OpenSSL 3 some
//! tens of milliseconds: at every start, every reload and every `nginx -t`, whether anything is called or not. Here the file is read with the
//! configuration, so it need not be there for workers, and decoded when OpenSSL first asks for an issuer that it does
//! not find in the system's folder, where each file is named after its certificate.

use std::{cell::Cell, env, ffi::CStr, fs, os::raw::c_int, path::PathBuf, ptr, ptr::NonNull, sync::OnceLock};

use nginx_sys::{
    BIO, BIO_ctrl_pending, BIO_free, BIO_new_mem_buf, ERR_pop_to_mark, ERR_set_mark, PEM_read_bio_X509_AUX,
    SSL_CTX, SSL_CTX_get_cert_store, SSL_CTX_set_default_verify_dir, X509, X509_LOOKUP, X509_LOOKUP_METHOD,
    X509_LOOKUP_TYPE, X509_LOOKUP_TYPE_X509_LU_X509, X509_LOOKUP_get_method_data, X509_LOOKUP_get_store,
    X509_LOOKUP_meth_new, X509_LOOKUP_meth_set_free, X509_LOOKUP_meth_set_get_by_subject,
    X509_LOOKUP_set_method_data, X509_NAME, X509_OBJECT, X509_OBJECT_get0_X509,
    X509_OBJECT_retrieve_by_subject, X509_OBJECT_set1_X509, X509_STORE, X509_STORE_add_cert,
    X509_STORE_add_lookup, X509_STORE_get0_objects, X509_STORE_lock, X509_STORE_unlock, X509_free,
    X509_get_default_cert_file, X509_get_default_cert_file_env,
};

use crate::ngx::{cycle::Cycle, guard::guard};

/// What a lookup has: the system's file, until it has been decoded.
type File = Cell<Option<Box<[u8]>>>;

/// Lets connections of `context` trust whom the system trusts. What is not found is not trusted.
///
/// # Safety
/// `context` points to a context of OpenSSL's that nobody else uses meanwhile.
pub(super) unsafe fn trust_system(context: *mut SSL_CTX) {
    // SAFETY: the caller's promise. It names the folder; nothing is read yet.
    unsafe { SSL_CTX_set_default_verify_dir(context) };
    let Ok(file) = fs::read(path()) else { return };
    let Some(method) = method() else { return };
    // SAFETY: the caller's promise; every context has a store, which lives as long as it does.
    let store = unsafe { SSL_CTX_get_cert_store(context) };
    // SAFETY: the store is the context's, and the method is never freed.
    let lookup = unsafe { X509_STORE_add_lookup(store, method.as_ptr()) };
    if lookup.is_null() {
        return;
    }
    let file: Box<File> = Box::new(Cell::new(Some(file.into())));
    // SAFETY: the lookup is the store's, and new: it has no data yet. `free` takes back what it is given here.
    unsafe { X509_LOOKUP_set_method_data(lookup, Box::into_raw(file).cast()) };
}

/// Where the system has all its certificates in one file: what OpenSSL was built for, or the environment says.
fn path() -> PathBuf {
    // SAFETY: the function answers a static string.
    let variable = unsafe { X509_get_default_cert_file_env() };
    // SAFETY: as above; it ends with NUL.
    let variable = unsafe { CStr::from_ptr(variable) };
    if let Some(path) = variable.to_str().ok().and_then(env::var_os) {
        return path.into();
    }
    // SAFETY: the function answers a static string.
    let path = unsafe { X509_get_default_cert_file() };
    // SAFETY: as above; it ends with NUL.
    let path = unsafe { CStr::from_ptr(path) };
    path.to_string_lossy().into_owned().into()
}

/// How OpenSSL looks certificates up here: one for the process, as stores keep pointers to it.
fn method() -> Option<NonNull<X509_LOOKUP_METHOD>> {
    struct Method(NonNull<X509_LOOKUP_METHOD>);
    // SAFETY: it is not changed any more once it is here, and OpenSSL reads it from any thread.
    unsafe impl Send for Method {}
    // SAFETY: as above.
    unsafe impl Sync for Method {}

    static METHOD: OnceLock<Option<Method>> = OnceLock::new();
    let method = METHOD.get_or_init(|| {
        // SAFETY: the name is a static string.
        let method = NonNull::new(unsafe { X509_LOOKUP_meth_new(c"the system's certificates".as_ptr()) })?;
        // SAFETY: the method is ours, and nobody uses it yet.
        unsafe { X509_LOOKUP_meth_set_get_by_subject(method.as_ptr(), Some(by_subject)) };
        // SAFETY: as above.
        unsafe { X509_LOOKUP_meth_set_free(method.as_ptr(), Some(free)) };
        Some(Method(method))
    });
    method.as_ref().map(|method| method.0)
}

/// A store ends (`X509_LOOKUP_free()`).
unsafe extern "C" fn free(lookup: *mut X509_LOOKUP) {
    // SAFETY: OpenSSL calls this once, with a lookup that has this method.
    let data = unsafe { X509_LOOKUP_get_method_data(lookup) };
    if !data.is_null() {
        // SAFETY: `trust_system` has put it there, and nobody asks the lookup any more.
        drop(unsafe { Box::from_raw(data.cast::<File>()) });
    }
}

/// OpenSSL asks for the certificate of `name`, which its store does not have (`X509_STORE_CTX_get_by_subject()`). Answers
/// 1 if it has been put into `found`, else 0.
unsafe extern "C" fn by_subject(
    lookup: *mut X509_LOOKUP,
    kind: X509_LOOKUP_TYPE,
    name: *const X509_NAME,
    found: *mut X509_OBJECT,
) -> c_int {
    Cycle::with_current(|cycle| {
        guard("a look at the system's certificates", cycle.log(), 0, || {
            if kind != X509_LOOKUP_TYPE_X509_LU_X509 {
                return 0;
            }
            // SAFETY: OpenSSL calls this with a lookup that has this method.
            let data = unsafe { X509_LOOKUP_get_method_data(lookup) };
            // SAFETY: `trust_system` has put it there, and `free` has not been called.
            let Some(file) = (unsafe { data.cast::<File>().as_ref() }) else { return 0 };
            // Decoded before, they are in the store, which OpenSSL has asked already.
            let Some(file) = file.take() else { return 0 };
            // SAFETY: a lookup is part of a store.
            let store = unsafe { X509_LOOKUP_get_store(lookup) };
            // SAFETY: the store is the lookup's, and OpenSSL does not hold its lock while it looks things up.
            unsafe { decode(&file, store) };
            // SAFETY: as above; name and place are the caller's.
            c_int::from(unsafe { find(store, name, found) })
        })
    })
}

/// Puts all certificates of `file`, which is PEM, into a store.
///
/// # Safety
/// The store is one of OpenSSL's, and its lock is not held.
unsafe fn decode(file: &[u8], store: *mut X509_STORE) {
    let Ok(length) = c_int::try_from(file.len()) else { return };
    // SAFETY: the bytes live until the end of this function, and are only read.
    let Some(bio) = NonNull::new(unsafe { BIO_new_mem_buf(file.as_ptr().cast(), length) }) else { return };
    // What is wrong in the file, and its end, are errors that are no connection's.
    // SAFETY: it marks a place in this thread's list of errors.
    unsafe { ERR_set_mark() };
    // SAFETY: ours, as above. Each turn reads at least one line.
    while unsafe { BIO_ctrl_pending(bio.as_ptr()) } > 0 {
        let Some(certificate) = read(bio) else { continue };
        // SAFETY: both live; the store counts its own reference.
        unsafe { X509_STORE_add_cert(store, certificate.as_ptr()) };
        // SAFETY: the reference is ours, and not used after this.
        unsafe { X509_free(certificate.as_ptr()) };
    }
    // SAFETY: as above.
    unsafe { ERR_pop_to_mark() };
    // SAFETY: it is ours, and not used after this.
    unsafe { BIO_free(bio.as_ptr()) };
}

/// The next certificate; `None` for what is none.
fn read(bio: NonNull<BIO>) -> Option<NonNull<X509>> {
    // SAFETY: the caller's reader, which nobody else has. Nothing there is encrypted, so no password is asked for.
    NonNull::new(unsafe { PEM_read_bio_X509_AUX(bio.as_ptr(), ptr::null_mut(), None, ptr::null_mut()) })
}

/// Puts the certificate of `name` into `found`, if the store has it.
///
/// # Safety
/// All three are OpenSSL's, and the store's lock is not held.
unsafe fn find(store: *mut X509_STORE, name: *const X509_NAME, found: *mut X509_OBJECT) -> bool {
    // SAFETY: the caller's promise.
    unsafe { X509_STORE_lock(store) };
    // SAFETY: as above; the lock is held while they are used.
    let objects = unsafe { X509_STORE_get0_objects(store) };
    // SAFETY: as above.
    let object = unsafe { X509_OBJECT_retrieve_by_subject(objects, X509_LOOKUP_TYPE_X509_LU_X509, name) };
    let certificate = if object.is_null() {
        ptr::null_mut()
    } else {
        // SAFETY: it is an object of the store's, which holds a certificate.
        unsafe { X509_OBJECT_get0_X509(object) }
    };
    let is_there = !certificate.is_null();
    if is_there {
        // SAFETY: both live. It counts a reference,
        unsafe { X509_OBJECT_set1_X509(found, certificate) };
        // which lookups do not do: who has asked counts its own.
        // SAFETY: the store has another one.
        unsafe { X509_free(certificate) };
    }
    // SAFETY: it is held.
    unsafe { X509_STORE_unlock(store) };
    is_there
}
