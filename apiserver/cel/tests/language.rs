//! What expressions evaluate to: the language and Kubernetes' libraries, case by case.

use keelson_cel::{Activation, Budget, Decl, Environment, EvalError, Value};
use serde_json::{Value as Json, json};

fn environment() -> Environment {
    Environment::base().variable("x", Decl::dynamic())
}

fn evaluate(source: &str, x: &Json) -> Result<String, String> {
    let program = environment()
        .compile(source)
        .map_err(|error| error.first_message().to_owned())?;
    let activation = Activation::new().bind("x", Value::dynamic(x));
    let mut budget = Budget::new(1_000_000);
    match program.evaluate(&activation, &mut budget) {
        Ok(value) => Ok(format!("{value:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Every expression must be true.
fn holds(sources: &[&str]) {
    let x = json!({"a": 1, "list": [1, 2, 3], "name": "kube", "nested": {"b": [{"c": true}]}, "null": null, "d": 1.5, "empty": {}});
    for source in sources {
        assert_eq!(evaluate(source, &x), Ok("true".into()), "{source}");
    }
}

fn fails(cases: &[(&str, &str)]) {
    let x = json!({"a": 1, "list": [1, 2, 3], "null": null});
    for (source, message) in cases {
        assert_eq!(evaluate(source, &x), Err((*message).to_owned()), "{source}");
    }
}

#[test]
fn arithmetic_and_order() {
    holds(&[
        "1 + 2 * 3 == 7",
        "7 / 2 == 3 && -7 / 2 == -3 && -7 % 3 == -1",
        "1u + 2u == 3u",
        "1.5 + 1.5 == 3.0",
        "'a' + 'b' == 'ab' && b'a' + b'b' == b'ab' && [1] + [2] == [1, 2]",
        "1 < 2u && 2u > 1 && 1.5 > 1 && 1 < 1.5 && dyn(1) == dyn(1.0) && dyn(1u) == dyn(1)",
        "'a' < 'b' && b'a' < b'b' && false < true",
        "-9223372036854775808 < 0 && 0x1F == 31",
        "!(1 == 2) && 1 != 2",
        "(true ? 1 : 2) == 1",
        "true || 1 / 0 == 1",
        "1 / 0 == 1 || true",
        "!(false && 1 / 0 == 1)",
        "!(1 / 0 == 1 && false)",
        "1e3 == 1000.0 && string(1e6) == '1e+06' && string(1.5) == '1.5'",
        "dyn(1) != dyn('1')",
    ]);
    fails(&[
        ("1 / 0 == 1", "division by zero"),
        ("1 % 0 == 1", "modulus by zero"),
        ("9223372036854775807 + 1 == 0", "integer overflow"),
        ("0u - 1u == 0u", "unsigned integer overflow"),
        ("-(-9223372036854775808 + 0) == 0", "integer overflow"),
        ("x.a + 'b' == ''", "no such overload"),
        ("x.missing == 1", "no such key: missing"),
        ("x.list[5] == 1", "index out of bounds: 5"),
        ("x['missing'] == 1", "no such key: missing"),
    ]);
}

#[test]
fn collections_and_macros() {
    holds(&[
        "x.list.size() == 3 && size(x.list) == 3 && size('üb') == 2 && size({'a': 1}) == 1",
        "2 in x.list && !(5 in x.list) && 'a' in x && 'a' in {'a': 1}",
        "has(x.a) && !has(x.zzz) && has(x.nested.b)",
        "x.list.all(i, i > 0) && x.list.exists(i, i == 2) && x.list.exists_one(i, i == 2)",
        "!x.list.exists_one(i, i > 1) && x.list.existsOne(i, i == 3)",
        "x.list.map(i, i * 2) == [2, 4, 6] && x.list.map(i, i > 1, i * 2) == [4, 6]",
        "x.list.filter(i, i > 1) == [2, 3]",
        "x.nested.b[0].c",
        "{'a': 1, 'b': 2}.all(k, k.size() == 1)",
        "[1, 2, 3].all(i, v, v == i + 1) && {'a': 1}.exists(k, v, k == 'a' && v == 1)",
        "[1, 2].transformList(i, v, i * v) == [0, 2]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
        "{'a': 'b'}.transformMapEntry(k, v, {v: k}) == {'b': 'a'}",
        "cel.bind(y, x.a + 1, y * y) == 4",
        "[[1, 2], [3]].map(l, l.map(i, i + 1)) == [[2, 3], [4]]",
        "{1: 'a', 2: 'b'}[2] == 'b' && dyn({1: 'a'})[1u] == 'a'",
        "[1, 2, 3].exists(i, 10 / (i - 1) > 5)",
        "{'a': [{'b': 2}]} == {'a': [{'b': 2}]}",
        "type(x.a) == int && type(x.name) == string && type(1u) == uint && type(x.list) == list && type(null) == null_type",
        "x['null'] == null && x['a'] == 1",
    ]);
    fails(&[
        ("[1, 2].all(i, i / 0 == 1)", "division by zero"),
        ("{'a': 1, 'a': 2} == {}", "Failed with repeated key: \"a\""),
        ("x.a.all(i, true)", "no such overload"),
    ]);
}

#[test]
fn text_and_regexes() {
    holds(&[
        "'hello'.contains('ell') && 'hello'.startsWith('he') && 'hello'.endsWith('lo')",
        "'hello'.charAt(1) == 'e' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c'] && 'abc'.split('') == ['a', 'b', 'c']",
        "['a', 'b'].join('-') == 'a-b' && ['a', 'b'].join() == 'ab'",
        "'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco'",
        "'aXb'.lowerAscii() == 'axb' && 'ab'.upperAscii() == 'AB' && ' a '.trim() == 'a'",
        "'hello'.replace('l', 'L') == 'heLLo' && 'hello'.replace('l', 'L', 1) == 'heLlo'",
        "'k8s-1.2'.matches('^[a-z0-9-]+[.][0-9]$') && matches('abc', 'b')",
        "'abc 123'.find('[0-9]+') == '123' && '1 2 3'.findAll('[0-9]') == ['1', '2', '3'] && '1 2 3'.findAll('[0-9]', 2) == ['1', '2']",
        "'%s is %d and %.2f'.format(['a', dyn(1), 1.5]) == 'a is 1 and 1.50'",
        "'%s %x %b'.format([['1', 'a'], dyn(255), 5]) == '[1, a] ff 101'",
        "strings.quote('a\"b') == '\"a\\\\\"b\"'",
        "string(1) == '1' && int('5') == 5 && double('1.5') == 1.5 && string(b'abc') == 'abc' && bool('true')",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
    ]);
    fails(&[
        ("'a'.charAt(5) == ''", "index out of range: 5"),
        ("'abc'.matches('(')", "invalid matches argument"),
        (
            "int('a') == 1",
            "type conversion error from 'string' to 'int'",
        ),
    ]);
}

#[test]
fn lists_and_sets() {
    holds(&[
        "[1, 2, 3].isSorted() && ![2, 1].isSorted() && [1, 2].sum() == 3 && [3, 1].max() == 3 && [3, 1].min() == 1",
        "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2",
        "sets.contains([1, 2], [1]) && sets.equivalent([1, 1], [1]) && sets.intersects([1, 2], [2, 3])",
        "[1, 2, 3, 4].slice(1, 3) == [2, 3] && [[1], [2]].flatten() == [1, 2] && lists.range(3) == [0, 1, 2]",
        "[3, 1, 2].sort() == [1, 2, 3] && [1, 2].reverse() == [2, 1] && [1, 1, 2].distinct() == [1, 2]",
        "[1, 2].first().value() == 1 && [1, 2].last().value() == 2",
    ]);
    fails(&[("[].max() == 1", "max called on empty list")]);
}

#[test]
fn optionals() {
    holds(&[
        "x.?a.orValue(5) == 1 && x.?zzz.orValue(5) == 5 && !x.?zzz.hasValue()",
        "x[?'a'].value() == 1 && !x.list[?7].hasValue()",
        "x.?nested.?b[0].c.value()",
        "optional.of(1).optMap(v, v + 1).value() == 2 && optional.none().or(optional.of(2)).value() == 2",
        "optional.of(1).optFlatMap(v, optional.of(v + 1)).value() == 2",
        "[?x.?zzz, 1] == [1] && {?'k': x.?zzz} == {}",
        "optional.ofNonZeroValue('').hasValue() == false",
    ]);
    fails(&[("x.?zzz.value() == 1", "optional.none() dereference")]);
}

#[test]
fn kubernetes_types() {
    holds(&[
        "url('https://example.com:80/path?k=v&k=w').getHost() == 'example.com:80' && url('https://a:80/p').getPort() == '80'",
        "url('https://a/p?k=v&k=w').getQuery()['k'] == ['v', 'w'] && isURL('/abs') && !isURL('rel')",
        "ip('10.0.0.1').family() == 4 && isIP('::1') && !isIP('10.0.0.256') && ip('127.0.0.1').isLoopback()",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && isCIDR('::/0')",
        "string(cidr('10.1.2.3/8').masked()) == '10.0.0.0/8' && cidr('10.0.0.0/8').prefixLength() == 8",
        "quantity('1.5Gi').isGreaterThan(quantity('1Gi')) && quantity('1k').add(1).asInteger() == 1001 && isQuantity('50m')",
        "quantity('50m').compareTo(quantity('0.05')) == 0 && quantity('1Mi') == quantity('1024Ki') && !quantity('50m').isInteger()",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.2.3').minor() == 2 && isSemver('v1.2', true) && !isSemver('v1.2')",
        "!format.dns1123Label().validate('ok').hasValue() && format.dns1123Label().validate('No').hasValue()",
        "format.named('uuid').value().validate('nope').value() == ['does not match the UUID format']",
        "timestamp('2023-01-01T00:00:00Z') < timestamp('2024-01-01T00:00:00Z') && duration('1h') == duration('60m')",
        "timestamp('2023-12-25T12:30:05.123Z').getFullYear() == 2023 && timestamp('2023-12-25T12:30:05Z').getMonth() == 11",
        "timestamp('2023-12-25T23:30:00Z').getDate('+02:00') == 26 && duration('90m').getHours() == 1",
        "timestamp('2023-01-02T00:00:00Z') - timestamp('2023-01-01T00:00:00Z') == duration('24h') && string(duration('1h')) == '3600s'",
    ]);
}

#[test]
fn what_is_wrong_is_told_before_evaluation() {
    let told = |source: &str| environment().compile(source).unwrap_err().to_string();
    assert_eq!(
        told("true && y"),
        "ERROR: <input>:1:9: undeclared reference to 'y' (in container '')\n | true && y\n | ........^"
    );
    assert_eq!(
        told("1 + 'a'"),
        "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^"
    );
    assert!(told("'a'.nope()").contains("undeclared reference to 'nope' (in container '')"));
    assert!(told("[1, 'a']").contains("expected type 'int' but found 'string'"));
    assert!(
        told("'a'.size(1)")
            .contains("found no matching overload for 'size' applied to 'string.(int)'")
    );
    assert!(told("duration('x') == duration('1s')").contains("invalid duration argument"));
    assert!(
        told("1.all(i, true)")
            .contains("expression of type 'int' cannot be range of a comprehension")
    );
    let typed = Environment::base().variable(
        "self",
        Decl::from_schema(
            &json!({"type": "object", "properties": {"n": {"type": "integer"}}}),
            false,
        )
        .unwrap(),
    );
    assert!(
        typed
            .compile("self.m == 1")
            .unwrap_err()
            .to_string()
            .contains("undefined field 'm'")
    );
    assert!(
        typed
            .compile("self.n == 'a'")
            .unwrap_err()
            .to_string()
            .contains("found no matching overload for '_==_' applied to '(int, string)'")
    );
    assert!(typed.compile("self.n > 1 && has(self.n)").is_ok());
}

#[test]
fn nothing_runs_for_ever() {
    let x = json!({"list": (0..1000).collect::<Vec<_>>(), "text": "a".repeat(100_000)});
    for source in [
        "x.list.all(a, x.list.all(b, x.list.all(c, a + b + c >= 0)))",
        "x.list.map(a, x.list.map(b, x.list)).size() > 0",
        "lists.range(1000000000).size() > 0",
        "x.text.replace('a', x.text).size() > 0",
        "x.list.exists(a, x.text.matches('(a*)*b|.*.*.*c'))",
        "cel.bind(a, x.list + x.list, cel.bind(b, a + a, cel.bind(c, b + b + b + b, cel.bind(d, c + c + c + c, x.list.map(i, d + [i]))))).size() > 0",
        "x.list.map(i, x.list.map(j, x.list == x.list)).size() > 0",
    ] {
        let started = std::time::Instant::now();
        let cost = EvalError::CostExceeded.to_string();
        assert_eq!(evaluate(source, &x), Err(cost), "{source}");
        assert!(started.elapsed().as_secs() < 20, "{source} took too long");
    }
    assert!(evaluate("x.text.matches('((a{1000}){1000}){1000}')", &x).is_err());
    let nested = format!("{}x{}", "[".repeat(240), "]".repeat(240));
    assert!(evaluate(&format!("{nested} == {nested}"), &x).is_ok());
}
