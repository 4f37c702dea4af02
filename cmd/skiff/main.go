// Command skiff is Kubernetes in one program.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // CronJobs name time zones, which a machine need not know

	"skiff/internal/cli"
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx := context.Background()
	var err error
	if embedded := cli.Embedded(os.Args); embedded != nil {
		err = embedded(ctx)
	} else {
		ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = cli.Run(ctx, os.Args, cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	}
	var exit cli.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	}
	fmt.Fprintln(os.Stderr, "skiff:", err)
	return 1
}
