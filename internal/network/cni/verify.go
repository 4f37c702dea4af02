package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
)

// check verifies that an attachment is still as add has left it.
func check(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	a, err := openAllocations(c.DataDir)
	if err != nil {
		return err
	}
	at := a.Attachments[attachmentKey(args.ContainerID, args.IfName)]
	a.close()
	if at == nil {
		return types.NewError(types.ErrUnknownContainer, "the container is not attached to the network", args.ContainerID)
	}
	if _, err := netlink.LinkByName(hostName(attachmentKey(args.ContainerID, args.IfName))); err != nil {
		return fmt.Errorf("the node's interface of the pod: %w", err)
	}
	p, err := openPod(args.Netns)
	if err != nil {
		return err
	}
	defer p.close()
	link, err := p.LinkByName(args.IfName)
	if err != nil {
		return fmt.Errorf("interface %s in the pod: %w", args.IfName, err)
	}
	have, err := p.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, want := range at.Addrs {
		found := false
		for _, h := range have {
			found = found || h.IP.Equal(want.AsSlice())
		}
		if !found {
			return fmt.Errorf("address %s is missing from interface %s in the pod", want, args.IfName)
		}
	}
	return nil
}

// gc detaches everything but the attachments that the runtime still knows.
func gc(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	var keep []string
	for _, v := range c.ValidAttachments {
		keep = append(keep, attachmentKey(v.ContainerID, v.IfName))
	}
	a, err := openAllocations(c.DataDir)
	if err != nil {
		return err
	}
	defer a.close()
	var errs error
	for key, at := range a.prune(keep) {
		if err := errors.Join(deleteLink(hostName(key)), unmapPorts(at.Addrs, at.Ports)); err != nil {
			a.Attachments[key] = at
			errs = errors.Join(errs, err)
		}
	}
	return errors.Join(errs, a.save())
}

// status reports whether add could succeed.
func status(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if _, err := netlink.LinkByName(c.Bridge); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, "the node's bridge "+c.Bridge+" is not there", err.Error())
	}
	return nil
}

func loopbackAdd(args *skel.CmdArgs) error {
	var c types.PluginConf
	if err := json.Unmarshal(args.StdinData, &c); err != nil {
		return types.NewError(types.ErrDecodingFailure, "cannot read the network configuration", err.Error())
	}
	p, err := openPod(args.Netns)
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.loopbackUp(); err != nil {
		return err
	}
	return types.PrintResult(&current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{{Name: "lo", Mac: "00:00:00:00:00:00", Sandbox: args.Netns}},
		IPs:        []*current.IPConfig{{Interface: current.Int(0), Address: net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}},
	}, c.CNIVersion)
}

// loopbackDel does nothing: the interface goes with its namespace.
func loopbackDel(*skel.CmdArgs) error { return nil }

func loopbackCheck(args *skel.CmdArgs) error {
	p, err := openPod(args.Netns)
	if err != nil {
		return err
	}
	defer p.close()
	lo, err := p.LinkByName("lo")
	if err != nil {
		return err
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		return errors.New("the pod's loopback interface is down")
	}
	return nil
}
