use super::*;

#[test]
fn a_shape_is_set_by_name() {
    let mut shapes = Shapes::default();
    shapes.set("nodes=rich").unwrap();
    assert_eq!(shapes, Shapes { nodes: Nodes::Rich, ..Shapes::default() });
}

#[test]
fn an_unknown_shape_or_value_lists_the_valid_ones() {
    let set = |text| Shapes::default().set(text).unwrap_err().to_string();
    assert_eq!(set("nodes"), "shape \"nodes\" must be <name>=<value>, such as login-request=form");
    assert_eq!(
        set("nodes=poor"),
        "shape nodes must be one of plain, rich, masters-slaves, flags; is \"poor\""
    );
    assert!(set("knots=rich").starts_with("shape \"knots\" is unknown; shapes are prefix, "));
}

#[test]
fn each_variant_differs_from_the_default_in_one_name() {
    let all = Shapes::each();
    let readings: usize = Shapes::choices().iter().map(|choice| choice.values.len() - 1).sum();
    assert_eq!(all.len(), readings);
    for (name, shapes) in all {
        assert_ne!(shapes, Shapes::default(), "{name}");
    }
}

#[test]
fn serde_uses_the_same_names() {
    for (text, shapes) in Shapes::each() {
        let (name, value) = text.split_once('=').unwrap();
        let json = serde_json::json!({ name: value });
        assert_eq!(serde_json::from_value::<Shapes>(json).unwrap(), shapes, "{text}");
    }
}
