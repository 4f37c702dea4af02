// Command testserver answers in pods of end-to-end tests: over HTTP and HTTPS it
// says who was asked what, over UDP it says who was asked. Each argument is a
// port: http:8080, https:8443, udp:8080. With ask:HOST:PORT it is a UDP client.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	if address, ok := strings.CutPrefix(strings.Join(os.Args[1:], " "), "ask:"); ok {
		if err := ask(address); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	failed := make(chan error)
	for _, arg := range os.Args[1:] {
		protocol, port, _ := strings.Cut(arg, ":")
		go func() { failed <- fmt.Errorf("%s: %w", arg, serve(protocol, port)) }()
	}
	fmt.Fprintln(os.Stderr, <-failed)
	os.Exit(1)
}

func serve(protocol, port string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	server := http.Server{Addr: ":" + port, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hostname":
			io.WriteString(w, host)
		case "/link":
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, `<a href="/target">link</a>`)
		default:
			fmt.Fprintf(w, "%s %s %s %s", protocol, port, r.Method, r.URL.RequestURI())
		}
	})}
	switch protocol {
	case "http":
		return server.ListenAndServe()
	case "https":
		certificate, err := selfSigned()
		if err != nil {
			return err
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
		return server.ListenAndServeTLS("", "")
	case "udp":
		conn, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			return err
		}
		buffer := make([]byte, 1<<10)
		for {
			_, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return err
			}
			if _, err := conn.WriteTo([]byte(host), from); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("the protocols are http, https and udp")
}

// ask prints what a UDP server answers.
func ask(address string) error {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("who?")); err != nil {
		return err
	}
	answer := make([]byte, 1<<10)
	n, err := conn.Read(answer)
	if err == nil {
		_, err = os.Stdout.Write(answer[:n])
	}
	return err
}

// selfSigned returns a certificate that nobody is to trust.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
