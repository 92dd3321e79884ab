//! The macro that defines the shapes: an enum for each, and the struct of all.

macro_rules! shapes {
    ($(
        $(#[doc = $doc:literal])+
        $field:ident = $name:literal: $kind:ident {
            $( $(#[doc = $variant_doc:literal])+ $variant:ident = $text:literal ),+ $(,)?
        }
    )+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
            pub enum $kind {
                $( $(#[doc = $variant_doc])+ #[serde(rename = $text)] $variant ),+
            }

            impl $kind {
                /// All values with their names; the first is the default.
                pub const ALL: &'static [(&'static str, Self)] = &[$(($text, Self::$variant)),+];
            }

            impl Default for $kind {
                fn default() -> Self {
                    Self::ALL[0].1
                }
            }
        )+

        /// A value for each shape. The defaults have the best evidence: VPSie's own Go client decodes them.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
        pub struct Shapes {
            $( $(#[doc = $doc])+ pub $field: $kind ),+
        }

        impl Shapes {
            /// All shapes with their values.
            pub fn choices() -> Vec<ShapeChoice> {
                vec![$(ShapeChoice {
                    name: $name,
                    about: concat!($($doc),+).trim(),
                    values: vec![$(($text, concat!($($variant_doc),+).trim())),+],
                }),+]
            }

            /// Applies one `name=value`.
            pub fn set(&mut self, text: &str) -> Result<(), ShapeError> {
                let (name, value) = text.split_once('=').ok_or_else(|| ShapeError::Syntax(text.to_owned()))?;
                match name.trim() {
                    $(
                        $name => self.$field = choose($name, value.trim(), $kind::ALL)?,
                    )+
                    other => {
                        return Err(ShapeError::Name {
                            name: other.to_owned(),
                            known: [$($name),+].join(", "),
                        });
                    }
                }
                Ok(())
            }

            /// A random value for each shape of managed clusters.
            pub fn random(rng: &mut impl rand::RngExt) -> Self {
                let mut shapes = Self::default();
                $(
                    if !VM_SHAPES.contains(&$name) {
                        shapes.$field = $kind::ALL[rng.random_range(0..$kind::ALL.len())].1;
                    }
                )+
                shapes
            }

            /// A random value for each shape.
            pub fn random_with_vms(rng: &mut impl rand::RngExt) -> Self {
                let mut shapes = Self::random(rng);
                $(
                    if VM_SHAPES.contains(&$name) {
                        shapes.$field = $kind::ALL[rng.random_range(0..$kind::ALL.len())].1;
                    }
                )+
                shapes
            }
        }
    };
}

pub(super) use shapes;
