package migrate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Input is a file that describes a Fulcio.
type Input struct {
	// Name is its path, and Data its content.
	Name string
	Data []byte
}

// Where says which of several processes is meant, and what the inputs are relative to.
type Where struct {
	// Workload is the name of a Deployment, of a service or of a resource; empty if there is only one.
	Workload string
	// Dir is the working directory, absolute: names of inputs are relative to it.
	Dir string
	// Variables has the values of ${NAME} in a Compose file.
	Variables map[string]string
}

// Parse finds the process in the inputs.
func Parse(inputs []Input, w Where) (*Process, error) {
	var docs []document
	for _, in := range inputs {
		all, err := documents(in.Data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", in.Name, err)
		}
		for _, one := range all {
			docs = append(docs, document{in.Name, one})
		}
	}
	found, err := processes(docs, w)
	if err != nil {
		return nil, err
	}
	if w.Workload != "" {
		all := found
		found = slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return c.name != w.Workload })
		if len(found) == 0 {
			return nil, fmt.Errorf("there is no %q; there is %s", w.Workload, names(all))
		}
	}
	switch len(found) {
	case 0:
		return nil, errors.New("no Fulcio was found: a Compose file has a service, and a Kubernetes manifest a " +
			"Deployment, StatefulSet or Pod, whose arguments have \"serve\" and \"--ca\"; values of " +
			"Sigstore's Helm chart have \"server:\"; a Securesign resource has \"spec.fulcio\"; a settings file has \"ca:\"")
	case 1:
		return found[0].process, nil
	}
	if one := joined(found); one != nil {
		return one, nil
	}
	return nil, fmt.Errorf("there are several: %s; name one with --workload NAME", names(found))
}

// document is one document of an input.
type document struct {
	file string
	v    any
}

// candidate is a process that was found.
type candidate struct {
	name    string
	process *Process
}

func names(all []candidate) string {
	var out []string
	for _, c := range all {
		out = append(out, c.name)
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ", ")
}

// processes finds the processes of all documents, by their form.
func processes(docs []document, w Where) ([]candidate, error) {
	var out []candidate
	k := newCluster(docs)
	for _, d := range docs {
		m, ok := d.v.(map[string]any)
		if !ok {
			continue
		}
		var found []candidate
		var err error
		switch {
		case m["kind"] != nil && m["apiVersion"] != nil:
			found, err = k.processes(d)
		case at(m, "services") != nil:
			found, err = compose(d, w)
		case isValues(m):
			found, err = helmValues(d)
		case textAt(m, "ca") != "":
			found = settingsProcess(d, w)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// settingsProcess is a process with a settings file alone.
func settingsProcess(d document, w Where) []candidate {
	return []candidate{{d.file, &Process{Name: d.file, Args: []string{"serve", "--config", d.file}, Dir: w.Dir}}}
}

// ports are the flags in which processes of one Fulcio may differ: one serves REST, and another one gRPC.
var ports = []string{"host", "port", "grpc-host", "grpc-port", "metrics-port"}

// joined returns several processes as one if they differ only in which port they set. It returns nil otherwise.
func joined(all []candidate) *Process {
	out := *all[0].process
	out.Args = slices.Clone(out.Args)
	base, err := all[0].process.read()
	if err != nil {
		return nil
	}
	for _, c := range all[1:] {
		s, err := c.process.read()
		if err != nil {
			return nil
		}
		for _, f := range Flags() {
			a, b := base.values[f.Name], s.values[f.Name]
			if a.text == b.text && (a.secret == nil) == (b.secret == nil) {
				continue
			}
			switch {
			case !slices.Contains(ports, f.Name) || a.source != fromDefault && b.source != fromDefault:
				return nil
			case a.source == fromDefault:
				out.Args = append(out.Args, "--"+f.Name+"="+b.text)
				base.values[f.Name] = b
			}
		}
		out.Name += ", " + c.process.Name
	}
	return &out
}
