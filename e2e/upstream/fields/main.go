// Command fields writes the table of every type and field of the Kubernetes API, read off the
// published Go types by reflection. Its output is apiserver/schema/src/fields.tsv. With the argument golden it writes
// samples of every kind instead, which apiserver/schema/tests/golden.rs compares.
//
// Columns: type, field, reference, flags, protobuf, patch, go.
//   - field "(type)": the Go name is in column go (for a field: the embedded
//     structs it comes through). Field "(kind)": reference is group/version/kind.
//   - reference: [] list of, {} map of strings to, * pointer element; then an OpenAPI type name or a
//     scalar; a scalar's Go name follows "=" where it differs.
//   - flags: p pointer, o omitempty, z omitzero.
//   - protobuf: number, or outer.inner where the field sits in an inlined message.
//   - patch: strategic merge's strategy (several with commas) and merge key, after a colon.
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"
	"reflect"
	"sort"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// special are the types with an encoding of their own.
var special = map[reflect.Type]string{
	reflect.TypeFor[metav1.Time]():                                       "Time",
	reflect.TypeFor[metav1.MicroTime]():                                  "MicroTime",
	reflect.TypeFor[metav1.Duration]():                                   "Duration",
	reflect.TypeFor[metav1.FieldsV1]():                                   "FieldsV1",
	reflect.TypeFor[resource.Quantity]():                                 "Quantity",
	reflect.TypeFor[intstr.IntOrString]():                                "IntOrString",
	reflect.TypeFor[runtime.RawExtension]():                              "RawExtension",
	reflect.TypeFor[apiextensionsv1.JSON]():                              "JSON",
	reflect.TypeFor[apiextensionsv1beta1.JSON]():                         "JSON",
	reflect.TypeFor[apiextensionsv1.JSONSchemaPropsOrArray]():            "SchemaOrArray",
	reflect.TypeFor[apiextensionsv1beta1.JSONSchemaPropsOrArray]():       "SchemaOrArray",
	reflect.TypeFor[apiextensionsv1.JSONSchemaPropsOrBool]():             "SchemaOrBool",
	reflect.TypeFor[apiextensionsv1beta1.JSONSchemaPropsOrBool]():        "SchemaOrBool",
	reflect.TypeFor[apiextensionsv1.JSONSchemaPropsOrStringArray]():      "SchemaOrStringArray",
	reflect.TypeFor[apiextensionsv1beta1.JSONSchemaPropsOrStringArray](): "SchemaOrStringArray",
}

// row is one line of the table.
type row struct{ typ, field, ref, flags, proto, patch, goName string }

type table struct {
	rows []row
	seen map[reflect.Type]bool
}

func modelName(t reflect.Type) string {
	if named, ok := reflect.New(t).Elem().Interface().(interface{ OpenAPIModelName() string }); ok {
		return named.OpenAPIModelName()
	}
	path := strings.TrimPrefix(t.PkgPath(), "k8s.io/")
	return "io.k8s." + strings.ReplaceAll(path, "/", ".") + "." + t.Name()
}

// reference describes a field's type and visits the structs it leads to.
func (tb *table) reference(t reflect.Type) string {
	if name, ok := special[t]; ok {
		if strings.HasPrefix(name, "SchemaOr") {
			tb.visit(t.Field(1).Type)
			name += "=" + t.PkgPath()[strings.LastIndex(t.PkgPath(), "/")+1:]
		}
		return name
	}
	scalar := func(kind string) string {
		if t.String() != kind {
			return kind + "=" + t.String()
		}
		return kind
	}
	switch t.Kind() {
	case reflect.Pointer:
		return "*" + tb.reference(t.Elem())
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		name := ""
		if t.Name() != "" {
			name = "<" + t.String() + ">"
		}
		return "[]" + name + tb.reference(t.Elem())
	case reflect.Map:
		name := ""
		if t.Name() != "" || t.Key().Name() != "string" {
			name = "<" + t.String() + ">"
		}
		return "{}" + name + tb.reference(t.Elem())
	case reflect.Struct:
		tb.visit(t)
		return modelName(t)
	case reflect.Interface:
		return "any"
	case reflect.String, reflect.Bool, reflect.Int32, reflect.Int64, reflect.Int, reflect.Float64, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return scalar(t.Kind().String())
	}
	log.Fatalf("no reference for %v", t)
	return ""
}

// visit writes the rows of a struct once.
func (tb *table) visit(t reflect.Type) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || special[t] != "" || tb.seen[t] {
		return
	}
	tb.seen[t] = true
	if _, custom := reflect.New(t).Interface().(interface{ MarshalJSON() ([]byte, error) }); custom {
		log.Fatalf("%v encodes itself", t)
	}
	name := modelName(t)
	tb.rows = append(tb.rows, row{typ: name, field: "(type)", goName: t.String()})
	tb.fields(name, t, "", "", map[string]bool{})
}

func (tb *table) fields(name string, t reflect.Type, outer, embedded string, taken map[string]bool) {
	var inlined []reflect.StructField
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		tag := strings.Split(f.Tag.Get("json"), ",")
		if tag[0] == "-" {
			continue
		}
		if tag[0] == "" && f.Anonymous {
			inlined = append(inlined, f)
			continue
		}
		if tag[0] == "" {
			tag[0] = f.Name
		}
		if taken[tag[0]] {
			continue
		}
		taken[tag[0]] = true
		ft, flags := f.Type, ""
		if ft.Kind() == reflect.Pointer {
			ft, flags = ft.Elem(), "p"
		}
		for _, option := range tag[1:] {
			switch option {
			case "omitempty":
				flags += "o"
			case "omitzero":
				flags += "z"
			}
		}
		proto := number(f)
		if outer == "-" {
			proto = ""
		} else if proto != "" {
			proto = outer + proto
		}
		tb.rows = append(tb.rows, row{typ: name, field: tag[0], ref: tb.reference(ft), flags: flags, proto: proto, patch: patch(f), goName: embedded})
	}
	for _, f := range inlined {
		inner := "-" // TypeMeta: not part of the message
		if n := number(f); n != "" && outer != "-" {
			inner = outer + n + "."
		}
		ft := f.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		tb.fields(name, ft, inner, strings.TrimPrefix(embedded+"."+f.Name, "."), taken)
	}
}

// patch is strategic merge's strategy, and the key after a colon.
func patch(f reflect.StructField) string {
	strategy, key := f.Tag.Get("patchStrategy"), f.Tag.Get("patchMergeKey")
	if key != "" {
		return strategy + ":" + key
	}
	return strategy
}

// number is the field's number in protobuf.
func number(f reflect.StructField) string {
	if parts := strings.Split(f.Tag.Get("protobuf"), ","); len(parts) > 1 {
		return parts[1]
	}
	return ""
}

func main() {
	scheme := runtime.NewScheme()
	for _, add := range groups {
		if err := add(scheme); err != nil {
			log.Fatal(err)
		}
	}
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	metav1.AddToGroupVersion(scheme, metav1.Unversioned)
	if err := metav1beta1.AddMetaToScheme(scheme); err != nil {
		log.Fatal(err)
	}
	if len(os.Args) > 1 && os.Args[1] == "golden" {
		golden(scheme)
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "writes" {
		writes(scheme)
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "bodies" {
		bodies(scheme)
		return
	}
	tb := &table{seen: map[reflect.Type]bool{}}
	for gvk, t := range scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal {
			continue
		}
		if t.PkgPath() == "k8s.io/apimachinery/pkg/apis/meta/v1" && gvk.Group != metav1.GroupName && (gvk.Group != "" || gvk.Version != "v1") {
			continue // meta's kinds are registered with every group
		}
		tb.visit(t)
		if t.Kind() == reflect.Struct && tb.seen[t] {
			tb.rows = append(tb.rows, row{typ: modelName(t), field: "(kind)", ref: gvk.Group + "/" + gvk.Version + "/" + gvk.Kind})
		}
	}
	for _, t := range []reflect.Type{reflect.TypeFor[metav1.Status](), reflect.TypeFor[metav1.List](), reflect.TypeFor[metav1.Table]()} {
		tb.visit(t)
	}
	sort.SliceStable(tb.rows, func(i, j int) bool {
		a, b := tb.rows[i], tb.rows[j]
		if a.typ != b.typ {
			return a.typ < b.typ
		}
		rank := func(r row) int {
			switch r.field {
			case "(type)":
				return 0
			case "(kind)":
				return 1
			}
			return 2
		}
		if rank(a) != rank(b) {
			return rank(a) < rank(b)
		}
		return rank(a) == 1 && a.ref < b.ref
	})
	w := bufio.NewWriter(os.Stdout)
	defer w.Flush()
	fmt.Fprintln(w, "type\tfield\treference\tflags\tprotobuf\tpatch\tgo")
	for _, r := range tb.rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.typ, r.field, r.ref, r.flags, r.proto, r.patch, r.goName)
	}
}
