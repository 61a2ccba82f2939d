//! Columns of server-side tables.

/// One column of a kind's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// The OpenAPI type of its cells.
    pub type_: &'static str,
    /// The OpenAPI format of its cells: `name` for the object's name.
    pub format: &'static str,
    /// What the cells say.
    pub description: &'static str,
    /// Zero for columns that are always shown, one for those of `-o wide`.
    pub priority: i32,
}

/// The object's name.
pub const NAME: Column = Column {
    name: "Name",
    type_: "string",
    format: "name",
    description: "The object's name.",
    priority: 0,
};
/// The object's age.
pub const AGE: Column = Column {
    name: "Age",
    type_: "string",
    format: "",
    description: "Time since the object was created.",
    priority: 0,
};

/// A column of text.
#[must_use]
pub const fn text(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        type_: "string",
        format: "",
        description,
        priority: 0,
    }
}

/// A column of text shown by `-o wide` only.
#[must_use]
pub const fn wide(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        type_: "string",
        format: "",
        description,
        priority: 1,
    }
}

/// A column of whole numbers.
#[must_use]
pub const fn integer(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        type_: "integer",
        format: "",
        description,
        priority: 0,
    }
}

/// A column of booleans.
#[must_use]
pub const fn boolean(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        type_: "boolean",
        format: "",
        description,
        priority: 0,
    }
}

/// What kinds without columns of their own show.
pub const DEFAULT: &[Column] = &[
    NAME,
    Column {
        name: "Created At",
        type_: "date",
        format: "",
        description: "When the object was created.",
        priority: 0,
    },
];

/// Containers, images and selector, which every workload shows by `-o wide`.
pub const CONTAINERS: Column = wide("Containers", "Names of the containers.");
/// See [`CONTAINERS`].
pub const IMAGES: Column = wide("Images", "Images of the containers.");
/// See [`CONTAINERS`].
pub const SELECTOR: Column = wide("Selector", "The label selector of the pods.");
