//! Problem codes: declares the codes of a program's problems from one table.
//!
//! **Invariant:** a code has a status, a title and a meaning, or the program does not compile.
//! **Not here:** the codes of any program, the responses.

#[doc(hidden)]
pub use actix_web::http::StatusCode;

/// Declares an enum of problem codes from a table with one line for each code: name, status, true
/// if the same request may succeed later, title, and meaning with remedy.
#[macro_export]
macro_rules! problem_codes {
    (
        $(#[$attribute:meta])*
        $vis:vis enum $name:ident;
        $($code:ident $status:literal $retryable:literal $title:literal $about:literal;)*
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name {
            $(#[doc = $about] $code,)*
        }

        impl $name {
            /// All codes, in their order.
            $vis const ALL: &'static [Self] = &[$(Self::$code),*];

            /// Returns the name: `TSR101`.
            $vis fn name(self) -> &'static str {
                match self { $(Self::$code => stringify!($code),)* }
            }

            /// Returns the HTTP status.
            $vis fn status(self) -> $crate::problem_codes::StatusCode {
                let status: u16 = match self { $(Self::$code => $status,)* };
                $crate::problem_codes::StatusCode::from_u16(status)
                    .expect("the table holds statuses of HTTP")
            }

            /// Returns true if the same request may succeed later.
            $vis fn is_retryable(self) -> bool {
                match self { $(Self::$code => $retryable,)* }
            }

            /// Returns a few words, the same for every occurrence.
            $vis fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)* }
            }

            /// Returns the meaning of the code and the remedy, for people.
            $vis fn about(self) -> &'static str {
                match self { $(Self::$code => $about,)* }
            }
        }
    };
}
