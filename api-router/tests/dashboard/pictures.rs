//! Screenshots of the dashboard of a router under load, for the README.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::page::{Page, Screen};

/// A folder, and the router whose dashboard is taken.
const FOLDER: &str = "TESSERA_PICTURES";
const ORIGIN: &str = "TESSERA_PICTURES_OF";

const DESK: Screen = Screen { width: 1280, height: 1112, scheme: "light", scale: 1 };

#[test]
#[ignore = "analytics/web-kit/dashboard/pictures.sh takes them"]
fn pictures_of_the_dashboard() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("pictures.sh says where to"));
    let origin = std::env::var(ORIGIN).expect("pictures.sh starts a router");
    let screens = [
        ("light", DESK),
        ("dark", Screen { scheme: "dark", ..DESK }),
        ("phone", Screen { width: 360, height: 720, scale: 2, ..DESK }),
    ];
    for (name, screen) in screens {
        let mut page = Page::visit(&origin, "/dashboard#window=1m&key=user_123", screen);
        page.until("it is live", "document.documentElement.dataset.connection === 'live'");
        page.until("the pin is dropped", "!document.getElementById('pin').hidden");
        page.until(
            "the charts are full",
            "document.querySelectorAll('#parts tbody tr').length > 0",
        );
        let taken = page.command("Page.captureScreenshot", &json!({"format": "png"}));
        let picture = STANDARD.decode(taken["data"].as_str().unwrap()).unwrap();
        std::fs::write(folder.join(format!("dashboard-{name}.png")), picture).unwrap();
        assert_eq!(page.faults(), Vec::<String>::new());
    }
}
