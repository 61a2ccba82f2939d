//! The macros: what `has`, `all`, `map`, `cel.bind`, `optMap` and their like become.

use std::sync::Arc;

use crate::ast::{ACCUMULATOR, Element, Expr, Fold, Kind, Literal, Name, Select};
use crate::parser::{Nodes, call};

/// A macro that was used wrongly, and the node where.
pub(crate) struct Fault {
    pub id: usize,
    pub message: String,
}

type Expanded = Result<Expr, Fault>;

/// The variable of a comprehension over nothing.
const UNUSED: &str = "#unused";
const INSERT: &str = "cel.@mapInsert";

/// The call, or the macro of its name with that many arguments, expanded.
pub(crate) fn expand(
    nodes: &mut Nodes,
    id: usize,
    function: &Name,
    target: Option<Expr>,
    args: Vec<Expr>,
) -> Expanded {
    let mut make = Make { nodes, at: id };
    let Some(target) = target else {
        return match (&**function, args.len()) {
            ("has", 1) => has(args),
            _ => Ok(call(id, function, None, args)),
        };
    };
    match (&**function, args.len()) {
        ("all" | "exists" | "exists_one" | "existsOne", 2 | 3) => {
            quantifier(&mut make, function, target, args)
        }
        ("map", 2 | 3) | ("filter", 2) => list(&mut make, function, target, args),
        ("transformList", 3 | 4) | ("transformMap", 3 | 4) | ("transformMapEntry", 3 | 4) => {
            transform(&mut make, function, target, args)
        }
        ("bind", 3) if is_namespace(&target) => bind(&mut make, args),
        ("optMap" | "optFlatMap", 2) => optional(&mut make, function, target, args),
        _ => Ok(call(id, function, Some(target), args)),
    }
}

fn is_namespace(target: &Expr) -> bool {
    matches!(&target.kind, Kind::Ident(name) if &**name == "cel")
}

fn take<const N: usize>(args: Vec<Expr>, id: usize) -> Result<[Expr; N], Fault> {
    args.try_into().map_err(|_| Fault {
        id,
        message: "wrong number of arguments".into(),
    })
}

struct Make<'n> {
    nodes: &'n mut Nodes,
    at: usize,
}

impl Make<'_> {
    fn node(&mut self, kind: Kind) -> Expr {
        self.nodes.node(self.at, kind)
    }

    fn literal(&mut self, literal: Literal) -> Expr {
        self.node(Kind::Literal(literal))
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.node(Kind::Ident(Arc::from(name)))
    }

    fn accu(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        let shell = self.literal(Literal::Null);
        call(shell.id, function, None, args)
    }

    fn list(&mut self, elements: Vec<Expr>) -> Expr {
        self.node(Kind::List(
            elements
                .into_iter()
                .map(|value| Element {
                    value,
                    optional: false,
                })
                .collect(),
        ))
    }

    fn fold(&mut self, fold: Fold) -> Expr {
        self.node(Kind::Fold(Box::new(fold)))
    }

    /// The names of one or two variables.
    fn variables(&self, args: &[Expr]) -> Result<(Name, Option<Name>), Fault> {
        let name = |arg: &Expr| match &arg.kind {
            Kind::Ident(name) if &**name == "__result__" => Err(Fault {
                id: arg.id,
                message: "iteration variable overwrites accumulator variable".into(),
            }),
            Kind::Ident(name) => Ok(name.clone()),
            _ => Err(Fault {
                id: arg.id,
                message: "argument must be a simple name".into(),
            }),
        };
        match args {
            [one] => Ok((name(one)?, None)),
            [one, two] => {
                let (first, second) = (name(one)?, name(two)?);
                if first == second {
                    return Err(Fault {
                        id: two.id,
                        message: format!("duplicate variable name: {first}"),
                    });
                }
                Ok((first, Some(second)))
            }
            _ => Err(Fault {
                id: self.at,
                message: "wrong number of arguments".into(),
            }),
        }
    }
}

fn has(args: Vec<Expr>) -> Expanded {
    let [arg] = take(args, 0)?;
    match arg.kind {
        Kind::Select(select) => Ok(Expr {
            id: arg.id,
            kind: Kind::Select(Box::new(Select {
                test: true,
                ..*select
            })),
        }),
        _ => Err(Fault {
            id: arg.id,
            message: "invalid argument to has() macro".into(),
        }),
    }
}

fn quantifier(make: &mut Make<'_>, function: &str, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let predicate = args.pop().ok_or(Fault {
        id: make.at,
        message: "wrong number of arguments".into(),
    })?;
    let (var, var2) = make.variables(&args)?;
    let (init, condition, step, result) = match function {
        "all" => {
            let init = make.literal(Literal::Bool(true));
            let accu = make.accu();
            let condition = make.call("@not_strictly_false", vec![accu]);
            let accu = make.accu();
            let step = make.call("_&&_", vec![accu, predicate]);
            (init, condition, step, make.accu())
        }
        "exists" => {
            let init = make.literal(Literal::Bool(false));
            let accu = make.accu();
            let not = make.call("!_", vec![accu]);
            let condition = make.call("@not_strictly_false", vec![not]);
            let accu = make.accu();
            let step = make.call("_||_", vec![accu, predicate]);
            (init, condition, step, make.accu())
        }
        _ => {
            let init = make.literal(Literal::Int(0));
            let condition = make.literal(Literal::Bool(true));
            let (accu, one) = (make.accu(), make.literal(Literal::Int(1)));
            let more = make.call("_+_", vec![accu, one]);
            let accu = make.accu();
            let step = make.call("_?_:_", vec![predicate, more, accu]);
            let (accu, one) = (make.accu(), make.literal(Literal::Int(1)));
            (init, condition, step, make.call("_==_", vec![accu, one]))
        }
    };
    Ok(make.fold(Fold {
        range,
        var,
        var2,
        accu: ACCUMULATOR.into(),
        init,
        condition,
        step,
        result,
        linear: false,
    }))
}

fn list(make: &mut Make<'_>, function: &str, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let rest = args.split_off(1);
    let (var, _) = match &args[0].kind {
        Kind::Ident(_) => make.variables(&args)?,
        _ => {
            return Err(Fault {
                id: args[0].id,
                message: "argument is not an identifier".into(),
            });
        }
    };
    let init = make.list(Vec::new());
    let condition = make.literal(Literal::Bool(true));
    let mut rest = rest.into_iter();
    let (predicate, element) = match (function, rest.next(), rest.next()) {
        ("filter", predicate, _) => (predicate, make.ident(&var)),
        (_, predicate, Some(element)) => (predicate, element),
        (_, Some(element), None) => (None, element),
        _ => (None, make.ident(&var)),
    };
    let step = grow(make, predicate, |make, accu| {
        let one = make.list(vec![element]);
        make.call("_+_", vec![accu, one])
    });
    let result = make.accu();
    Ok(make.fold(Fold {
        range,
        var,
        var2: None,
        accu: ACCUMULATOR.into(),
        init,
        condition,
        step,
        result,
        linear: true,
    }))
}

/// A step that grows the accumulator, where the predicate says so.
fn grow(
    make: &mut Make<'_>,
    predicate: Option<Expr>,
    step: impl FnOnce(&mut Make<'_>, Expr) -> Expr,
) -> Expr {
    let accu = make.accu();
    let step = step(make, accu);
    match predicate {
        None => step,
        Some(predicate) => {
            let accu = make.accu();
            make.call("_?_:_", vec![predicate, step, accu])
        }
    }
}

fn transform(make: &mut Make<'_>, function: &str, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let rest = args.split_off(2);
    let (var, var2) = make.variables(&args)?;
    let init = if function == "transformList" {
        make.list(Vec::new())
    } else {
        make.node(Kind::Map(Vec::new()))
    };
    let condition = make.literal(Literal::Bool(true));
    let mut rest = rest.into_iter();
    let (predicate, element) = match (rest.next(), rest.next()) {
        (predicate, Some(element)) => (predicate, element),
        (Some(element), None) => (None, element),
        (None, None) => (None, make.ident(&var)),
    };
    let key = var.clone();
    let step = grow(make, predicate, |make, accu| match function {
        "transformList" => {
            let one = make.list(vec![element]);
            make.call("_+_", vec![accu, one])
        }
        "transformMap" => {
            let key = make.ident(&key);
            make.call(INSERT, vec![accu, key, element])
        }
        _ => make.call(INSERT, vec![accu, element]),
    });
    let result = make.accu();
    Ok(make.fold(Fold {
        range,
        var,
        var2,
        accu: ACCUMULATOR.into(),
        init,
        condition,
        step,
        result,
        linear: true,
    }))
}

fn bind(make: &mut Make<'_>, args: Vec<Expr>) -> Expanded {
    let [variable, init, result] = take(args, make.at)?;
    let Kind::Ident(name) = variable.kind else {
        return Err(Fault {
            id: variable.id,
            message: "cel.bind() variable names must be simple identifiers".into(),
        });
    };
    let_in(make, &name, init, result)
}

/// `result`, in which the name is what `init` says.
fn let_in(make: &mut Make<'_>, name: &Name, init: Expr, result: Expr) -> Expanded {
    let range = make.list(Vec::new());
    let condition = make.literal(Literal::Bool(false));
    let step = make.ident(name);
    Ok(make.fold(Fold {
        range,
        var: UNUSED.into(),
        var2: None,
        accu: name.clone(),
        init,
        condition,
        step,
        result,
        linear: false,
    }))
}

/// `target.hasValue() ? optional.of(let var = target.value() in expr) : optional.none()`
fn optional(make: &mut Make<'_>, function: &str, target: Expr, args: Vec<Expr>) -> Expanded {
    let [variable, body] = take(args, make.at)?;
    let Kind::Ident(name) = &variable.kind else {
        return Err(Fault {
            id: variable.id,
            message: format!("{function}() variable name must be a simple identifier"),
        });
    };
    // The target is evaluated once: it is bound to a name that no expression can spell.
    const TARGET: &str = "@target";
    let subject = make.ident(TARGET);
    let shell = make.literal(Literal::Null);
    let test = call(shell.id, "hasValue", Some(subject), Vec::new());
    let subject = make.ident(TARGET);
    let shell = make.literal(Literal::Null);
    let value = call(shell.id, "value", Some(subject), Vec::new());
    let mut inner = let_in(make, name, value, body)?;
    if function == "optMap" {
        inner = make.call("optional.of", vec![inner]);
    }
    let none = make.call("optional.none", Vec::new());
    let choice = make.call("_?_:_", vec![test, inner, none]);
    let_in(make, &TARGET.into(), target, choice)
}
