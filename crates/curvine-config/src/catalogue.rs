//! The macro that turns a section's list of keys into a struct, its defaults, its reader and its documentation.

use toml::de::DeValue;

/// A key as the reference and the sample show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Empty for the top level.
    pub section: &'static str,
    pub name: &'static str,
    /// What kind of value, in words.
    pub kind: &'static str,
    /// The value as a TOML literal.
    pub value: String,
    /// One or two sentences.
    pub doc: &'static str,
}

/// A section of the config file.
pub(crate) trait Section {
    const NAME: &'static str;
    const ABOUT: &'static str;
    /// Every key with its present value.
    fn keys(&self) -> Vec<KeyInfo>;
    /// Sets a key; `None`: there is no such key. The error says what was expected.
    fn set(&mut self, key: &str, value: &DeValue<'_>) -> Option<Result<(), String>>;
}

macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $Name:ident, $section:literal {
            $( $(#[doc = $doc:literal])+ $key:ident: $Kind:ty = $default:expr; )*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Name {
            $( $(#[doc = $doc])+ pub $key: <$Kind as crate::kind::Kind>::Value, )*
        }

        impl Default for $Name {
            fn default() -> Self {
                Self { $( $key: $default, )* }
            }
        }

        impl crate::catalogue::Section for $Name {
            const NAME: &'static str = $section;
            const ABOUT: &'static str = concat!($($about),+);

            fn keys(&self) -> Vec<crate::catalogue::KeyInfo> {
                vec![$(
                    crate::catalogue::KeyInfo {
                        section: $section,
                        name: stringify!($key),
                        kind: <$Kind as crate::kind::Kind>::NAME,
                        value: <$Kind as crate::kind::Kind>::write(&self.$key),
                        doc: concat!($($doc),+).trim_ascii(),
                    },
                )*]
            }

            fn set(&mut self, key: &str, value: &toml::de::DeValue<'_>) -> Option<Result<(), String>> {
                match key {
                    $( stringify!($key) => Some(<$Kind as crate::kind::Kind>::read(value).map(|read| self.$key = read)), )*
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use section;
