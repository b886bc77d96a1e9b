//! Templates whose namespaces would hold each other.
//!
//! `{% set a.x = a %}` makes a value that never ends: whoever prints, joins or compares it goes down until the stack is used up, which
//! ends the program, and no fuel is spent on the way. A template comes with somebody else's model or task, so before it runs it is
//! looked at: a namespace may be made, looked into and added to, as published templates do, and never used as a value, so that none
//! comes to stand in another by whatever way.

use std::collections::BTreeSet;

use minijinja::{
    Error, ErrorKind,
    machinery::{
        ast::{Call, CallArg, Expr, Macro, Stmt},
        parse,
    },
    syntax::SyntaxConfig,
};

/// Whether a template's values have an end.
///
/// # Errors
/// Bad Jinja; or the namespace that is used as a value, with the line.
pub fn refuse_nested_namespaces(source: &str, syntax: &SyntaxConfig) -> Result<(), Error> {
    let template = parse(source, "template", syntax.clone())?;
    let mut names = BTreeSet::from(["namespace"]);
    collect(&template, &mut names);
    Names(names).statement(&template).map_err(|used| {
        let reason = match used {
            Used::Value { name, line } => format!(
                "line {line}: `{name}` is used as a value, so that namespaces may come to hold each other and have no end; use what is in it, such as `{name}.x`"
            ),
            Used::Import { line } => format!("line {line}: there is no other template to import"),
        };
        Error::new(ErrorKind::InvalidOperation, reason)
    })
}

/// The names that stand for a namespace somewhere.
fn collect<'s>(statement: &Stmt<'s>, names: &mut BTreeSet<&'s str>) {
    if let Stmt::Set(set) = statement
        && let (Expr::Var(target), Some(_)) = (&set.target, made(&set.expr))
    {
        names.insert(target.id);
    }
    for inner in bodies(statement).into_iter().flatten() {
        collect(inner, names);
    }
}

/// The call that makes a namespace, if that is what an expression is.
fn made<'e, 's>(value: &'e Expr<'s>) -> Option<&'e Call<'s>> {
    match value {
        Expr::Call(call) if matches!(&call.expr, Expr::Var(callee) if callee.id == "namespace") => Some(call),
        _ => None,
    }
}

/// The statements in a statement.
fn bodies<'e, 's>(statement: &'e Stmt<'s>) -> [&'e [Stmt<'s>]; 2] {
    match statement {
        Stmt::Template(it) => [&it.children, &[]],
        Stmt::ForLoop(it) => [&it.body, &it.else_body],
        Stmt::IfCond(it) => [&it.true_body, &it.false_body],
        Stmt::WithBlock(it) => [&it.body, &[]],
        Stmt::SetBlock(it) => [&it.body, &[]],
        Stmt::AutoEscape(it) => [&it.body, &[]],
        Stmt::FilterBlock(it) => [&it.body, &[]],
        Stmt::Block(it) => [&it.body, &[]],
        Stmt::Macro(it) => [&it.body, &[]],
        Stmt::CallBlock(it) => [&it.macro_decl.body, &[]],
        Stmt::EmitExpr(_) | Stmt::EmitRaw(_) | Stmt::Set(_) | Stmt::Import(_) | Stmt::FromImport(_) => [&[], &[]],
        Stmt::Extends(_) | Stmt::Include(_) | Stmt::Continue(_) | Stmt::Break(_) | Stmt::Do(_) => [&[], &[]],
    }
}

/// What makes it possible that a namespace comes to stand in another.
#[derive(Debug)]
enum Used<'s> {
    Value {
        name: &'s str,
        line: u16,
    },
    /// What a template exports are values, its namespaces among them.
    Import {
        line: u16,
    },
}

/// The names of namespaces, and of what makes them.
struct Names<'s>(BTreeSet<&'s str>);

impl<'s> Names<'s> {
    fn statement(&self, statement: &Stmt<'s>) -> Result<(), Used<'s>> {
        match statement {
            Stmt::EmitExpr(it) => self.value(&it.expr)?,
            Stmt::ForLoop(it) => self.values([&it.iter].into_iter().chain(&it.filter_expr))?,
            Stmt::IfCond(it) => self.value(&it.expr)?,
            Stmt::WithBlock(it) => self.values(it.assignments.iter().map(|(_, value)| value))?,
            Stmt::Set(it) => match (&it.target, made(&it.expr)) {
                (Expr::Var(_), Some(call)) => self.arguments(&call.args)?,
                _ => self.value(&it.expr)?,
            },
            Stmt::SetBlock(it) => self.values(&it.filter)?,
            Stmt::AutoEscape(it) => self.value(&it.enabled)?,
            Stmt::FilterBlock(it) => self.value(&it.filter)?,
            Stmt::Macro(it) => self.defaults(it)?,
            Stmt::CallBlock(it) => {
                self.call(&it.call)?;
                self.defaults(&it.macro_decl)?;
            }
            Stmt::Do(it) => self.call(&it.call)?,
            Stmt::Extends(it) => self.value(&it.name)?,
            Stmt::Include(it) => self.value(&it.name)?,
            Stmt::Import(it) => {
                return Err(Used::Import {
                    line: it.span().start_line,
                });
            }
            Stmt::FromImport(it) => {
                return Err(Used::Import {
                    line: it.span().start_line,
                });
            }
            Stmt::Template(_) | Stmt::EmitRaw(_) | Stmt::Block(_) | Stmt::Continue(_) | Stmt::Break(_) => {}
        }
        let mut inner = bodies(statement).into_iter().flatten();
        inner.try_for_each(|inner| self.statement(inner))
    }

    fn values<'e>(&self, values: impl IntoIterator<Item = &'e Expr<'s>>) -> Result<(), Used<'s>>
    where
        's: 'e,
    {
        values.into_iter().try_for_each(|value| self.value(value))
    }

    fn value(&self, value: &Expr<'s>) -> Result<(), Used<'s>> {
        match value {
            Expr::Var(it) if self.0.contains(it.id) => Err(Used::Value {
                name: it.id,
                line: it.span().start_line,
            }),
            Expr::Var(_) | Expr::Const(_) => Ok(()),
            Expr::Slice(it) => self.values([&it.expr].into_iter().chain(&it.start).chain(&it.stop).chain(&it.step)),
            Expr::UnaryOp(it) => self.value(&it.expr),
            Expr::BinOp(it) => self.values([&it.left, &it.right]),
            Expr::Compare(it) => self.values([&it.expr].into_iter().chain(it.ops.iter().map(|op| &op.expr))),
            Expr::IfExpr(it) => self.values([&it.test_expr, &it.true_expr].into_iter().chain(&it.false_expr)),
            Expr::Filter(it) => {
                self.values(&it.expr)?;
                self.arguments(&it.args)
            }
            // `is defined` and its kin keep nothing.
            Expr::Test(it) => {
                self.looked_into(&it.expr)?;
                self.arguments(&it.args)
            }
            Expr::GetAttr(it) => self.looked_into(&it.expr),
            Expr::GetItem(it) => {
                self.looked_into(&it.expr)?;
                self.value(&it.subscript_expr)
            }
            Expr::Call(it) => self.call(it),
            Expr::List(it) => self.values(&it.items),
            Expr::Tuple(it) => self.values(&it.items),
            Expr::Map(it) => self.values(it.keys.iter().chain(&it.values)),
        }
    }

    /// What a namespace holds is none.
    fn looked_into(&self, value: &Expr<'s>) -> Result<(), Used<'s>> {
        match value {
            Expr::Var(_) => Ok(()),
            value => self.value(value),
        }
    }

    fn call(&self, call: &Call<'s>) -> Result<(), Used<'s>> {
        self.value(&call.expr)?;
        self.arguments(&call.args)
    }

    fn arguments(&self, arguments: &[CallArg<'s>]) -> Result<(), Used<'s>> {
        self.values(arguments.iter().map(|argument| match argument {
            CallArg::Pos(value) | CallArg::Kwarg(_, value) => value,
            CallArg::PosSplat(values) | CallArg::KwargSplat(values) => values,
        }))
    }

    fn defaults(&self, called: &Macro<'s>) -> Result<(), Used<'s>> {
        self.values(&called.defaults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(source: &str) -> Option<String> {
        let looked_at = refuse_nested_namespaces(source, &SyntaxConfig::default());
        looked_at.err().map(|e| e.to_string())
    }

    /// `{% set all.texts = all %}` in a task's template, and a print of it, used the stack up and ended the program. So did every
    /// other way to the same.
    #[test]
    fn a_namespace_in_a_namespace_is_found() {
        for nested in [
            "{%- set a = namespace(texts=[]) -%}{%- set a.texts = a%}{{- a.texts -}}",
            "{%+ set a = namespace() %}{%+ set a.x = a %}",
            "{% set a = namespace() %}{% set b = [a] %}{% set a.x = b %}",
            "{% set a = namespace() %}{% set a.x = namespace() %}{% set a.x.y = a.x %}",
            "{% set a = namespace(x=namespace()) %}",
            "{% set n = namespace %}{% set a = n() %}{% set a.x = a %}",
            "{% set a, b = namespace(), 1 %}{% set a.x = a %}",
            "{% set a = namespace() %}{% for b in [a] %}{% set a.x = b %}{% endfor %}",
            "{% set a = namespace() %}{% for b in [1, a, 2] %}{% set a.x = loop.previtem %}{% endfor %}",
            "{% set a = namespace() %}{% with b = a %}{% set a.x = b %}{% endwith %}",
            "{% set a = namespace() %}{% with b = 1, c = [a] %}{% set a.x = c %}{% endwith %}",
            "{% set a = namespace() %}{% set a.x = {'k': a} %}",
            "{% set a = namespace() %}{% set d = {'k': a} %}{% set d.k.x = d.k %}",
            "{% macro m(p, q) %}{% set p.x = q %}{% endmacro %}{% set a = namespace() %}{{ m(a, a) }}",
            "{% set a = namespace() %}{% macro m(p=a) %}{% set p.x = p %}{% endmacro %}{{ m() }}",
            "{% macro m(p) %}{{ caller(p) }}{% endmacro %}{% set a = namespace() %}{% call(b) m(a) %}{% set b.x = b %}{% endcall %}",
            "{% set a = namespace() %}{{ {'k': {'k': 1}} ~ [a] }}",
            "{% raw %}{#{% endraw %}{% set a = namespace() %}{% set a.x = a %}{# #}",
            "{% import 'template' as t %}{% set a = t.n %}{% set a.x = a %}",
        ] {
            assert!(refused(nested).is_some(), "{nested}");
        }
        let told = refused("{% set a = namespace() %}\n{% set a.x = a %}").unwrap();
        assert!(told.contains("line 2: `a` is used as a value"), "{told}");
    }

    #[test]
    fn what_templates_keep_is_left_alone() {
        for usual in [
            "{% set ns = namespace(x='ab', n=0) %}{% for m in messages %}{% set ns.x = ns.x ~ m.content %}{% set ns.n = ns.n + 1 %}{% endfor %}",
            "{% set ns = namespace(x=[]) %}{% set ns.x = ns.x + [ns.x | length] %}{% if ns.x == 'ns' %}{{ ns['x'] }}{% endif %}",
            "{% macro m(t) %}{% set ns2 = namespace(y='') %}{% set ns2.y = t %}{{ ns2.y }}{% endmacro %}{{ m('ns2 = ns2') }}",
            "{% set ns = namespace(tools=[]) %}{% set all = tools %}{% set ns.tools = all %}{{ 'set ns.x = ns' }}",
            "{% set ns = namespace(x=1) %}{% if ns is defined %}{{ f(ns=ns.x) }}{% endif %}",
            "text {# {% set ns = namespace() %}{% set ns.x = ns %} #} {{ x }}",
        ] {
            assert_eq!(refused(usual), None, "{usual}");
        }
    }
}
