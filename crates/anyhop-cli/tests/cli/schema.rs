//! Whether values are what a JSON Schema in an OpenAPI document says. Knows the words that
//! the document uses and panics at others, so that nothing passes for lack of being looked
//! at; a field that no schema names is an error.

use serde_json::{Map, Value};

/// A document whose schemas are referred to.
pub(crate) struct Document(pub(crate) Value);

impl Document {
    /// Says where and how `value` is not what `schema` says.
    pub(crate) fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let schema = match schema {
            Value::Object(words) => words,
            Value::Bool(true) => return Ok(()),
            _ => return Err(format!("{at}: nothing may be here")),
        };
        for (word, says) in schema {
            self.word(schema, (word, says), value, at)
                .map_err(|e| match e.is_empty() {
                    true => format!("{at}: {value} is not {word} {says}"),
                    false => e,
                })?;
        }
        self.fields(schema, value, at)
    }

    fn word(
        &self,
        schema: &Map<String, Value>,
        (word, says): (&str, &Value),
        value: &Value,
        at: &str,
    ) -> Result<(), String> {
        let fits = |schema: &Value| self.check(schema, value, at).is_ok();
        let all = |schemas: &Value| schemas.as_array().expect("a list").clone();
        let holds = match word {
            "description" | "title" | "default" | "format" => true,
            // Looked at together.
            "properties" | "additionalProperties" => true,
            "$ref" => return self.check(self.referred(says), value, at),
            "type" => match says {
                Value::Array(types) => types.iter().any(|t| is_of(t, value)),
                one => is_of(one, value),
            },
            "const" => says == value,
            "enum" => all(says).contains(value),
            "anyOf" => all(says).iter().any(fits),
            "oneOf" => all(says).iter().filter(|s| fits(s)).count() == 1,
            "minimum" => value.as_f64().is_none_or(|v| v >= number(says)),
            "maximum" => value.as_f64().is_none_or(|v| v <= number(says)),
            "required" => {
                let has = |name: &Value| value.get(name.as_str().expect("a name")).is_some();
                !value.is_object() || all(says).iter().all(has)
            }
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.check(says, item, &format!("{at}[{i}]"))?;
                }
                true
            }
            _ => panic!("this checker does not know {word:?} in {schema:?}"),
        };
        if holds { Ok(()) } else { Err(String::new()) }
    }

    fn fields(&self, schema: &Map<String, Value>, value: &Value, at: &str) -> Result<(), String> {
        let (named, others) = (schema.get("properties"), schema.get("additionalProperties"));
        if named.is_none() && others.is_none() {
            return Ok(());
        }
        for (name, field) in value.as_object().into_iter().flatten() {
            let says = named.and_then(|n| n.get(name)).or(others);
            let says = says.ok_or_else(|| format!("{at}: the field {name} is not described"))?;
            self.check(says, field, &format!("{at}.{name}"))?;
        }
        Ok(())
    }

    fn referred(&self, reference: &Value) -> &Value {
        let pointer = reference.as_str().and_then(|r| r.strip_prefix('#'));
        let found = pointer.and_then(|pointer| self.0.pointer(pointer));
        found.unwrap_or_else(|| panic!("{reference} refers to nothing"))
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str().expect("a word") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type of JSON: {other}"),
    }
}
