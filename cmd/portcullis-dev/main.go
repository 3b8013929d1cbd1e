package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"portcullis.dev/portcullis/cmd/portcullis-dev/internal/devserver"
)

func main() {
	s, err := devserver.Start(devserver.Options{Database: os.Args[1], Port: 7333, UIPort: 8333, Namespace: "default", Retention: 168 * time.Hour, Logger: slog.Default()})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.Address(), s.UI())
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	<-c
	fmt.Println(s.Stop())
}
