//! Page: operates the dashboard in a browser as a user does: reads, waits, clicks and types.

use serde_json::{Value, json};

use crate::browser::Tab;
use crate::router::{PATIENCE, Router};

/// A screen that the page is looked at on.
#[derive(Clone, Copy)]
pub(crate) struct Screen {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) scheme: &'static str,
    /// Points of the screen for one of the page.
    pub(crate) scale: u32,
}

pub(crate) const DESK: Screen = Screen { width: 1440, height: 900, scheme: "light", scale: 1 };
pub(crate) const NIGHT: Screen = Screen { scheme: "dark", ..DESK };
pub(crate) const PHONE: Screen = Screen { width: 360, height: 740, scheme: "light", scale: 1 };

/// The dashboard of a router, open in a browser that no other page is open in.
pub(crate) struct Page {
    browser: Tab,
    origin: String,
}

impl Page {
    /// Opens the dashboard and waits until figures come live.
    pub(crate) fn open(router: &Router, screen: Screen) -> Self {
        Self::open_at(&router.url(""), screen)
    }

    /// Opens the page of an origin such as `http://127.0.0.1:3001`.
    pub(crate) fn open_at(origin: &str, screen: Screen) -> Self {
        let mut page = Self::visit(origin, "/dashboard", screen);
        page.until("it is live", "document.documentElement.dataset.connection === 'live'");
        page
    }

    /// Opens any path of an origin such as `http://127.0.0.1:3000`.
    pub(crate) fn visit(origin: &str, path: &str, screen: Screen) -> Self {
        let mut page = Self { browser: Tab::open(), origin: origin.to_owned() };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.command(&format!("{domain}.enable"), &json!({}));
        }
        page.look_on(screen);
        page.command("Page.navigate", &json!({ "url": format!("{origin}{path}") }));
        page.until(
            "it is loaded",
            "document.readyState === 'complete' && location.href !== 'about:blank'",
        );
        page
    }

    pub(crate) fn look_on(&mut self, screen: Screen) {
        let Screen { width, height, scheme, .. } = screen;
        let size = json!({"width": width, "height": height, "deviceScaleFactor": screen.scale, "mobile": width < 600});
        self.command("Emulation.setDeviceMetricsOverride", &size);
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.command("Emulation.setEmulatedMedia", &features);
    }

    pub(crate) fn command(&mut self, method: &str, params: &Value) -> Value {
        self.browser.command(method, params)
    }

    /// Returns the value of an expression in the page; for a promise, its result.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut result = self.command("Runtime.evaluate", &params);
        let thrown = &result["exceptionDetails"];
        assert!(thrown.is_null(), "{expression}: {}", thrown["exception"]["description"]);
        result["result"]["value"].take()
    }

    pub(crate) fn text(&mut self, selector: &str) -> String {
        let value = self.value(&format!("document.querySelector({}).textContent", json!(selector)));
        value.as_str().unwrap().to_owned()
    }

    /// Returns the texts of all elements of a selector.
    pub(crate) fn texts(&mut self, selector: &str) -> Vec<String> {
        let all = format!(
            "[...document.querySelectorAll({})].map((node) => node.textContent)",
            json!(selector)
        );
        let value = self.value(&all);
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    /// Waits until an expression in the page is true, or something that is not false; that value.
    pub(crate) fn until(&mut self, what: &str, expression: &str) -> Value {
        let script = format!(
            "new Promise((done) => {{ const began = performance.now(); const look = () => {{
                let seen; try {{ seen = ({expression}); }} catch {{ seen = false; }}
                if (seen || performance.now() - began > {}) done(seen || null); else setTimeout(look, 20);
            }}; look(); }})",
            PATIENCE.as_millis()
        );
        let seen = self.value(&script);
        if seen.is_null() {
            let shown = self.value("document.body.innerText.slice(0, 1500)");
            panic!(
                "never: {what}\nfaults: {:?}\nthe page: {}",
                self.faults(),
                shown.as_str().unwrap_or("")
            );
        }
        seen
    }

    /// Clicks where a mouse would: in the middle of an element.
    pub(crate) fn click(&mut self, selector: &str) {
        let place = self.value(&format!(
            "(() => {{ const node = document.querySelector({}); node.scrollIntoView({{block: 'center'}});
                const box = node.getBoundingClientRect();
                return [box.x + box.width / 2, box.y + box.height / 2]; }})()",
            json!(selector)
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.command("Input.dispatchMouseEvent", &event);
        }
    }

    /// Clicks on an element that makes the page load again, and waits until it has.
    pub(crate) fn click_and_load(&mut self, selector: &str) {
        let is_load = |event: &Value| event["method"] == "Page.loadEventFired";
        self.browser.events.retain(|event| !is_load(event));
        self.click(selector);
        self.browser.wait_for("the page loads again", is_load);
    }

    /// Presses a key: `Tab`, `Enter`, `Escape`, `ArrowLeft` …
    pub(crate) fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            "ArrowLeft" => (37, ""),
            other => panic!("unknown key {other}"),
        };
        let mut event =
            json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code});
        if !text.is_empty() {
            event["text"] = json!(text);
        }
        self.command("Input.dispatchKeyEvent", &event);
        event["type"] = json!("keyUp");
        self.command("Input.dispatchKeyEvent", &event);
    }

    /// Types a text into what has the focus.
    pub(crate) fn type_text(&mut self, text: &str) {
        self.command("Input.insertText", &json!({"text": text}));
    }

    /// Returns the figures of the event that the page got with this time.
    pub(crate) fn figures_of(&mut self, at: &str) -> Value {
        let heard = |event: &Value| {
            let is_event = event["method"] == "Network.eventSourceMessageReceived";
            let data = event["params"]["data"].as_str().filter(|_| is_event)?;
            let answer: Value = serde_json::from_str(data).ok()?;
            (answer["metrics"]["at"] == at).then(|| answer["metrics"].clone())
        };
        let event =
            self.browser.wait_for("the event that is shown", |event| heard(event).is_some());
        heard(&event).unwrap()
    }

    /// Returns errors and warnings of the browser's console, and requests to other hosts.
    pub(crate) fn faults(&self) -> Vec<String> {
        let reported = self.browser.events.iter().filter_map(|event| {
            let params = &event["params"];
            match event["method"].as_str()? {
                "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
                "Log.entryAdded" if params["entry"]["level"] != "verbose" => {
                    Some(params["entry"].to_string())
                }
                "Runtime.consoleAPICalled" => Some(params["args"].to_string()),
                "Network.requestWillBeSent" => {
                    let url = params["request"]["url"].as_str()?;
                    let is_own =
                        url.strip_prefix(&self.origin).is_some_and(|rest| rest.starts_with('/'));
                    (!is_own && !url.starts_with("data:") && url != "about:blank")
                        .then(|| format!("asked {url}"))
                }
                _ => None,
            }
        });
        reported.collect()
    }

    /// Returns the requested paths, with their queries.
    pub(crate) fn asked(&self) -> Vec<String> {
        let sent = self
            .browser
            .events
            .iter()
            .filter(|event| event["method"] == "Network.requestWillBeSent");
        let urls = sent.filter_map(|event| event["params"]["request"]["url"].as_str());
        urls.filter_map(|url| url.strip_prefix(&self.origin)).map(str::to_owned).collect()
    }

    /// Waits until the request that carries the stream of figures has ended.
    pub(crate) fn wait_for_the_end_of_the_stream(&mut self) {
        let is_stream = |event: &&Value| {
            let url = event["params"]["request"]["url"].as_str().unwrap_or("");
            event["method"] == "Network.requestWillBeSent" && url.contains("/api/analytics/stream")
        };
        let last = self.browser.events.iter().rfind(is_stream).expect("there was a stream");
        let id = last["params"]["requestId"].clone();
        self.browser.wait_for("the end of the stream", |event| {
            let ends = ["Network.loadingFailed", "Network.loadingFinished"];
            event["method"].as_str().is_some_and(|method| ends.contains(&method))
                && event["params"]["requestId"] == id
        });
    }
}
