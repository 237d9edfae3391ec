//! The control API tells about itself: routes that come with a description, and the OpenAPI
//! document that all of them make.
//!
//! A route cannot be added without its [`About`], and its values' schemas are those of the
//! types that the handler reads and writes; so the document is what is served.
//! `docs/openapi.json` is the output of `anyhop openapi`, and a test compares them.
//!
//! OpenAPI 3.1 has no words for events and for upgraded connections: the former are in
//! `x-events`, name to schema of the data, the latter an answer 101 whose description tells.

use std::sync::Arc;

use axum::{Router, handler::Handler, routing};
use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use crate::{api::network::NetworkQuery, daemon::Daemon, error::ErrorBody, frame::UPGRADE};

/// Where schemas are in the document.
const SCHEMAS: &str = "/components/schemas";

/// Makes the schema of a type.
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What a route does, takes and answers.
#[derive(Debug, Clone)]
pub(super) struct About {
    summary: &'static str,
    query: Option<SchemaOf>,
    takes: Takes,
    answers: Answers,
}

#[derive(Debug, Clone)]
enum Takes {
    Nothing,
    Json(SchemaOf),
    Bytes(&'static str),
}

#[derive(Debug, Clone)]
enum Answers {
    Json(SchemaOf),
    Events(&'static str, SchemaOf),
    Frames(&'static str),
}

impl About {
    /// One that answers with a value.
    pub(super) fn json<T: JsonSchema>(summary: &'static str) -> Self {
        Self::new(summary, Answers::Json(SchemaGenerator::subschema_for::<T>))
    }

    /// One that answers with server-sent events of this name, and a value in each.
    pub(super) fn events<T: JsonSchema>(summary: &'static str, name: &'static str) -> Self {
        let of = SchemaGenerator::subschema_for::<T>;
        Self::new(summary, Answers::Events(name, of))
    }

    /// One that answers with an upgraded connection, on which this is said.
    pub(super) fn frames(summary: &'static str, said: &'static str) -> Self {
        Self::new(summary, Answers::Frames(said))
    }

    fn new(summary: &'static str, answers: Answers) -> Self {
        Self {
            summary,
            query: None,
            takes: Takes::Nothing,
            answers,
        }
    }

    /// The query has the fields of `T`.
    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(T::json_schema);
        self
    }

    /// The body is a `T` in JSON.
    pub(super) fn takes<T: JsonSchema>(mut self) -> Self {
        self.takes = Takes::Json(SchemaGenerator::subschema_for::<T>);
        self
    }

    /// The body is taken as it is.
    pub(super) fn takes_bytes(mut self, what: &'static str) -> Self {
        self.takes = Takes::Bytes(what);
        self
    }
}

/// Routes with their descriptions.
#[derive(Debug, Default)]
pub(super) struct Routes {
    router: Router<Arc<Daemon>>,
    operations: Vec<Operation>,
}

#[derive(Debug)]
struct Operation {
    method: &'static str,
    path: &'static str,
    about: About,
}

impl Routes {
    /// Adds one that is asked for with GET.
    pub(super) fn get<H, T>(self, path: &'static str, handler: H, about: About) -> Self
    where
        H: Handler<T, Arc<Daemon>>,
        T: 'static,
    {
        self.add("get", path, routing::get(handler), about)
    }

    /// Adds one that is asked for with POST.
    pub(super) fn post<H, T>(self, path: &'static str, handler: H, about: About) -> Self
    where
        H: Handler<T, Arc<Daemon>>,
        T: 'static,
    {
        self.add("post", path, routing::post(handler), about)
    }

    fn add(
        mut self,
        method: &'static str,
        path: &'static str,
        handler: routing::MethodRouter<Arc<Daemon>>,
        about: About,
    ) -> Self {
        self.router = self.router.route(path, handler);
        let operation = Operation {
            method,
            path,
            about,
        };
        self.operations.push(operation);
        self
    }

    /// Adds those of a part of the API.
    pub(super) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// To be served.
    pub(super) fn into_router(self) -> Router<Arc<Daemon>> {
        self.router
    }

    /// The document.
    pub(super) fn document(&self) -> Value {
        let mut schemas = Schemas::new();
        let mut paths = Map::new();
        for operation in &self.operations {
            let path = paths.entry(operation.path).or_insert_with(|| json!({}));
            path[operation.method] = operation.describe(&mut schemas);
        }
        let network = parameters(&schemas.taken(NetworkQuery::json_schema), "query");
        let error = schemas.answered(SchemaGenerator::subschema_for::<ErrorBody>);
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Anyhop's control API",
                "description": "Served by `anyhop up` on the Unix socket `control.sock` in its state directory.",
                "version": "1",
                "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
            },
            "servers": [{"url": "http://anyhop", "description": "Any host name will do: the socket is what counts"}],
            "security": [],
            "paths": paths,
            "components": {
                "parameters": {"network": network[0]},
                "responses": {"error": {
                    "description": "It was not done, and why",
                    "content": {"application/json": {"schema": error}},
                }},
                "schemas": schemas.finish(),
            },
        })
    }
}

impl Operation {
    fn describe(&self, schemas: &mut Schemas) -> Value {
        let mut parameters = vec![json!({"$ref": "#/components/parameters/network"})];
        parameters.extend(self.path.split('/').filter_map(path_parameter));
        if let Some(query) = self.about.query {
            parameters.extend(self::parameters(&schemas.taken(query), "query"));
        }
        let (status, answer) = self.answer(schemas);
        let mut operation = json!({
            "operationId": self.id(),
            "summary": self.about.summary,
            "parameters": parameters,
            "responses": {status: answer, "default": {"$ref": "#/components/responses/error"}},
        });
        let body = match self.about.takes {
            Takes::Nothing => return operation,
            Takes::Json(of) => json!({
                "required": true,
                "content": {"application/json": {"schema": schemas.taken(of)}},
            }),
            Takes::Bytes(what) => json!({
                "required": true,
                "description": what,
                "content": {"application/octet-stream": {}},
            }),
        };
        operation["requestBody"] = body;
        operation
    }

    fn answer(&self, schemas: &mut Schemas) -> (&'static str, Value) {
        match self.about.answers {
            Answers::Json(of) => (
                "200",
                json!({
                    "description": "Done",
                    "content": {"application/json": {"schema": schemas.answered(of)}},
                }),
            ),
            Answers::Events(name, of) => (
                "200",
                json!({
                    "description": "Server-sent events, until either side closes the connection",
                    "content": {"text/event-stream": {
                        "schema": {"type": "string"},
                        "x-events": {name: schemas.answered(of)},
                    }},
                }),
            ),
            Answers::Frames(said) => (
                "101",
                json!({"description": format!("With `Upgrade: {UPGRADE}`: {said}")}),
            ),
        }
    }

    /// `GET /v1/path/{peer}` is `get_path_peer`.
    fn id(&self) -> String {
        let words = self.path.trim_start_matches("/v1/");
        let words = words.split(|c: char| !c.is_ascii_alphanumeric());
        let words = words.filter(|word| !word.is_empty());
        [self.method]
            .into_iter()
            .chain(words)
            .collect::<Vec<_>>()
            .join("_")
    }
}

/// The parameter that a part of a path is, if it is one.
fn path_parameter(part: &str) -> Option<Value> {
    let name = part.strip_prefix('{')?.strip_suffix('}')?;
    Some(json!({
        "name": name,
        "in": "path",
        "required": true,
        "description": "PeerId, part of one, or name",
        "schema": {"type": "string"},
    }))
}

/// The fields of a query as parameters.
fn parameters(query: &Value, place: &str) -> Vec<Value> {
    let required = query["required"].as_array();
    let fields = query["properties"].as_object().into_iter().flatten();
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        let description = schema.as_object_mut().and_then(|s| s.remove("description"));
        json!({
            "name": name,
            "in": place,
            "required": required.is_some_and(|r| r.contains(&json!(name))),
            "description": description,
            "schema": schema,
        })
    };
    fields.map(parameter).collect()
}

/// Schemas of all types, as they are taken and as they are answered: what may be left out of
/// the one is always in the other.
struct Schemas {
    taken: SchemaGenerator,
    answered: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = |contract| {
            let mut settings = SchemaSettings::draft2020_12();
            settings.contract = contract;
            settings.definitions_path = SCHEMAS.into();
            settings.into_generator()
        };
        Self {
            taken: settings(Contract::Deserialize),
            answered: settings(Contract::Serialize),
        }
    }

    fn taken(&mut self, of: SchemaOf) -> Value {
        of(&mut self.taken).to_value()
    }

    fn answered(&mut self, of: SchemaOf) -> Value {
        of(&mut self.answered).to_value()
    }

    /// All that were named.
    fn finish(mut self) -> Map<String, Value> {
        let mut all = self.taken.take_definitions(true);
        for (name, schema) in self.answered.take_definitions(true) {
            let other = all.insert(name.clone(), schema.clone());
            assert!(
                other.is_none_or(|other| other == schema),
                "{name} is taken and answered with other fields: use two types"
            );
        }
        all
    }
}
