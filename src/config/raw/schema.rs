//! The shapes of scalars for the JSON Schema. Pure.
//!
//! Never judges a value: that is for the checks.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// Declares shapes that stand in the schema where they are used.
macro_rules! shapes {
    ($($name:ident = $schema:tt)*) => {$(
        pub(in crate::config) struct $name;

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

shapes! {
    Name = { "type": "string", "pattern": "^[a-z0-9-]{1,63}$" }
    Interface = { "type": "string", "pattern": "^[a-zA-Z0-9_=+.-]{1,15}$" }
    AbsolutePath = { "type": "string", "pattern": "^/" }
    Key = { "type": "string", "pattern": "^[A-Za-z0-9+/]{43}=$" }
    Duration = { "type": "string", "pattern": "^[0-9]+ *[a-z]+( *[0-9]+ *[a-z]+)*$" }
    DurationOrOff = { "type": "string", "pattern": "^(off|[0-9]+ *[a-z]+( *[0-9]+ *[a-z]+)*)$" }
    PercentOrOff = { "type": "string", "pattern": "^(off|[0-9]+ *%)$" }
    Url = { "type": "string", "pattern": "^https?://" }
    DurationOrNever = { "type": "string", "pattern": "^(never|[0-9]+ *[a-z]+( *[0-9]+ *[a-z]+)*)$" }
    Size = { "type": "string", "pattern": "^[0-9]+ *(B|KiB|MiB|GiB|TiB)$" }
    Backend = { "enum": ["auto", "offload", "plain"] }
    AutoOrOff = { "enum": ["auto", "off"] }
    Delivery = { "enum": ["transparent", "stored"] }
    OnFull = { "enum": ["close", "nak"] }
    ApplicationAck = { "enum": ["discard"] }
    Ack = { "enum": ["application", "accept", "none"] }
    HoldOrPark = { "enum": ["hold", "park"] }
    InDoubt = { "enum": ["resend", "hold"] }
    OnUnreachable = { "enum": ["hold", "close", "nak"] }
    Mllp = { "enum": ["release1", "release2"] }
    Byte = { "type": "integer", "minimum": 1, "maximum": 31 }
    Probe = { "enum": ["none", "tcp"] }
    Mark = { "anyOf": [{ "const": "off" }, { "type": "integer", "minimum": 0, "maximum": 0xffff_ffff_u32 }] }
    Table = { "anyOf": [
        { "enum": ["auto", "off"] },
        { "type": "integer", "minimum": 1, "maximum": 0xffff_ffff_u32 }
    ] }
}
