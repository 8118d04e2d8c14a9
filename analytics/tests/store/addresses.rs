//! Tests of store addresses.

use analytics::store::StoreAddress;

#[test]
fn a_store_is_a_file_a_database_or_none() {
    let report = |text: &str| StoreAddress::parse(text).unwrap().map(|address| address.to_string());
    assert_eq!(report("none"), None);
    assert_eq!(report("./data/analytics.db").as_deref(), Some("./data/analytics.db"));
    for (given, shown) in [
        ("postgres://me:word@db.example.com/figures", "postgres://db.example.com:5432/figures"),
        ("postgresql://me@[::1]:5433/figures?sslmode=disable", "postgres://[::1]:5433/figures"),
        (
            "postgres://me:p%40ss@a:1,b:2/figures?sslmode=verify-full&sslrootcert=/ca.pem",
            "postgres://a:1,b:2/figures",
        ),
        ("postgres://me@127.0.0.1/figures?connect_timeout=3", "postgres://127.0.0.1:5432/figures"),
    ] {
        assert_eq!(report(given).as_deref(), Some(shown));
        assert_eq!(format!("{:?}", StoreAddress::parse(given).unwrap().unwrap()), shown);
    }
}

#[test]
fn an_invalid_store_is_refused_with_the_allowed_forms_and_without_the_secret() {
    for (given, said) in [
        ("", "must be a file"),
        ("redis://127.0.0.1", "must be a file"),
        ("sqlite:/var/lib/figures.db", "must be a file"),
        ("postgres://me:se%ret@127.0.0.1:port/figures", "write @ as %40"),
        ("postgres://127.0.0.1/figures", "names no user"),
        ("postgres://me:secret@127.0.0.1", "names no database"),
        ("postgres://me:secret@/figures", "names no host"),
        ("postgres://me:secret@127.0.0.1/figures?sslmode=prefer", "disable or verify-full"),
        ("postgres://me:secret@127.0.0.1/figures?ssl=secret", "no parameters but"),
    ] {
        let error = StoreAddress::parse(given).unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains("secret"), "{given}: {error}");
    }
}
