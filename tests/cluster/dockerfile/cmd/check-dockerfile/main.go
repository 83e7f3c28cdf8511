// dockerfile FILE...: reads each Dockerfile as BuildKit does, down to its instructions, and complains as BuildKit would.
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

func main() {
	good := true
	for _, name := range os.Args[1:] {
		for _, complaint := range check(name) {
			good = false
			fmt.Fprintf(os.Stderr, "%s: %s\n", name, complaint)
		}
	}
	if !good {
		os.Exit(1)
	}
}

// check returns what is wrong with a Dockerfile: what cannot be read, and what the linter warns of.
func check(name string) (complaints []string) {
	text, err := os.ReadFile(name)
	if err != nil {
		return []string{err.Error()}
	}
	tree, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return []string{err.Error()}
	}
	lint := linter.New(&linter.Config{
		Warn: func(rule, _, _, message string, _ []parser.Range) {
			complaints = append(complaints, rule+": "+message)
		},
	})
	stages, _, err := instructions.Parse(tree.AST, lint)
	if err != nil {
		return append(complaints, err.Error())
	}
	if len(stages) == 0 {
		complaints = append(complaints, "no stage")
	}
	for _, stage := range stages {
		fmt.Printf("%s: FROM %s AS %s: %d instructions\n", name, stage.BaseName, stage.Name, len(stage.Commands))
	}
	return complaints
}
