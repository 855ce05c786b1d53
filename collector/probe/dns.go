package probe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// maxMessage is the most that a name server sends over UDP to who does not ask for more (RFC 1035, 4.2.1), and a bit,
// to see that it does not keep to it.
const maxMessage = 4 << 10

// recordType returns the type of records by its name, or 0.
func recordType(name string) dnsmessage.Type {
	return map[string]dnsmessage.Type{
		"": dnsmessage.TypeA, "A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "CNAME": dnsmessage.TypeCNAME,
		"MX": dnsmessage.TypeMX, "NS": dnsmessage.TypeNS, "PTR": dnsmessage.TypePTR, "SOA": dnsmessage.TypeSOA,
		"SRV": dnsmessage.TypeSRV, "TXT": dnsmessage.TypeTXT,
	}[strings.ToUpper(name)]
}

// askDNS returns how to ask a name server for records.
func askDNS(o Options) (ask, error) {
	name, err := dnsmessage.NewName(strings.Trim(o.Target.Path, "/.") + ".")
	if err != nil {
		return nil, fmt.Errorf("name to ask for: %w", err)
	}
	question := dnsmessage.Question{Name: name, Type: recordType(o.Target.Query().Get("type")), Class: dnsmessage.ClassINET}
	if question.Type == 0 {
		return nil, fmt.Errorf("there is no type %q", o.Target.Query().Get("type"))
	}
	return func(ctx context.Context, t *timeline) error {
		conn, err := dial(ctx, t, "udp", o.address("53"))
		if err != nil {
			return err
		}
		defer hangUp(conn)
		t.enter(phaseFirstByte)
		return query(ctx, conn, question)
	}, nil
}

// query sends the question and reads one answer: the kernel lets only those of the server through, so one that does
// not fit is the server's.
func query(ctx context.Context, conn net.Conn, q dnsmessage.Question) error {
	id := uint16(rand.Uint32())
	message := dnsmessage.Message{
		Header: dnsmessage.Header{ID: id, RecursionDesired: true}, Questions: []dnsmessage.Question{q},
	}
	data, err := message.Pack()
	if err != nil {
		return &failure{local, fmt.Errorf("pack the question: %w", err)}
	}
	release := deadline(ctx, conn)
	defer release()
	if _, err := conn.Write(data); err != nil {
		return err
	}
	buffer := make([]byte, maxMessage)
	n, err := conn.Read(buffer)
	if err != nil {
		return err
	}
	return checkAnswer(buffer[:n], id, q)
}

// deadline ends reads and writes of a connection with ctx, until the function it returns is called.
func deadline(ctx context.Context, conn interface{ SetDeadline(time.Time) error }) func() bool {
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}

// checkAnswer says whether a message answers the question, with at least one record. Whether the records are right is
// nothing that a probe could know.
func checkAnswer(data []byte, id uint16, q dnsmessage.Question) error {
	var p dnsmessage.Parser
	h, err := p.Start(data)
	if err != nil {
		return &failure{protocol, fmt.Errorf("header of the answer: %w", err)}
	}
	if !h.Response || h.ID != id {
		return &failure{protocol, errors.New("the answer is not to this question")}
	}
	questions, err := p.AllQuestions()
	switch {
	case h.RCode != dnsmessage.RCodeSuccess: // may come without the question
		return &failure{badStatus, fmt.Errorf("the server says %s", strings.TrimPrefix(h.RCode.String(), "RCode"))}
	case err != nil:
		return &failure{protocol, fmt.Errorf("question in the answer: %w", err)}
	case len(questions) != 1 || !sameQuestion(questions[0], q):
		return &failure{protocol, errors.New("the answer is to another question")}
	}
	return checkRecords(&p, q, h.Truncated)
}

func sameQuestion(a, b dnsmessage.Question) bool {
	return a.Type == b.Type && a.Class == b.Class && strings.EqualFold(a.Name.String(), b.Name.String())
}

// checkRecords looks for a record of the type asked for. An answer that was cut off, because it is too long for UDP,
// has some.
func checkRecords(p *dnsmessage.Parser, q dnsmessage.Question, truncated bool) error {
	found := truncated
	for {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err == nil {
			found = found || h.Type == q.Type
			err = p.SkipAnswer()
		}
		if err != nil {
			return &failure{protocol, fmt.Errorf("records of the answer: %w", err)}
		}
	}
	if !found {
		return &failure{badBody, errors.New("the answer has no such record")}
	}
	return nil
}
