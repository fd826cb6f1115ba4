use proptest::prelude::*;

use super::*;

/// What becomes of bytes that come in these pieces; of [`Progress`] only what does not depend on them.
fn decode(pieces: &[&[u8]]) -> Vec<Result<Request, Refusal>> {
    let (mut decoder, mut outcomes) = (Decoder::default(), Vec::new());
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let (now, later) = rest.split_at(rest.len().min(decoder.room()));
            decoder.push(now);
            rest = later;
            loop {
                match decoder.advance() {
                    Ok(Progress::Request(request)) => outcomes.push(Ok(request)),
                    Ok(Progress::Incomplete) => break,
                    Ok(Progress::Continue) => {}
                    Err(refusal) => {
                        outcomes.push(Err(refusal));
                        return outcomes;
                    }
                }
            }
            if rest.is_empty() {
                break;
            }
            assert!(decoder.room() > 0, "it takes nothing and wants more");
        }
    }
    outcomes
}

fn request(text: &str) -> Request {
    let outcomes = decode(&[text.as_bytes()]);
    match &outcomes[..] {
        [Ok(request)] => request.clone(),
        other => panic!("{text:?}: {other:?}"),
    }
}

fn refusal(text: &str) -> Refusal {
    match decode(&[text.as_bytes()]).pop() {
        Some(Err(refusal)) => refusal,
        other => panic!("{text:?}: {other:?}"),
    }
}

#[test]
fn a_request_is_its_method_path_and_body() {
    let curl = "PATCH /vm HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\nContent-Length: 2\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n{}";
    let request = request(curl);
    assert_eq!(request.method, Method::Patch);
    assert_eq!(
        (request.path.as_str(), request.body.as_slice()),
        ("/vm", &b"{}"[..])
    );
    assert_eq!(request.line, "PATCH /vm");
    assert!(request.keep_alive);
}

#[test]
fn an_absolute_target_has_the_same_path() {
    for (target, path) in [
        ("/vm/config", "/vm/config"),
        ("http://localhost/vm/config", "/vm/config"),
        ("http://localhost", "/"),
        ("*", "*"),
    ] {
        let text = format!("GET {target} HTTP/1.1\r\n\r\n");
        assert_eq!(request(&text).path, path);
    }
}

#[test]
fn requests_may_follow_one_another_at_once() {
    let text = "PUT /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nxGET /b HTTP/1.1\r\n\r\n\r\nGET /c HTTP/1.1\r\n\r\n";
    let paths: Vec<_> = decode(&[text.as_bytes()])
        .into_iter()
        .map(|outcome| outcome.unwrap().path)
        .collect();
    assert_eq!(paths, ["/a", "/b", "/c"]);
}

#[test]
fn who_wants_no_other_answer_says_so() {
    for (rest, keep_alive) in [
        ("1.1\r\n", true),
        ("1.1\r\nConnection: close\r\n", false),
        ("1.1\r\nconnection: keep-alive, Close\r\n", false),
        ("1.0\r\n", false),
        ("1.0\r\nConnection: Keep-Alive\r\n", true),
    ] {
        let text = format!("GET / HTTP/{rest}\r\n");
        assert_eq!(request(&text).keep_alive, keep_alive, "{rest}");
    }
}

#[test]
fn a_body_is_welcomed_once_where_that_is_awaited() {
    let head = "PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let mut decoder = Decoder::default();
    decoder.push(head.as_bytes());
    assert_eq!(decoder.advance(), Ok(Progress::Continue));
    assert_eq!(decoder.advance(), Ok(Progress::Incomplete));
    decoder.push(b"xy");
    assert!(matches!(decoder.advance(), Ok(Progress::Request(_))));
    // It comes anyway.
    decoder.push(format!("{head}x").as_bytes());
    assert_eq!(decoder.advance(), Ok(Progress::Incomplete));
    let old = head.replace("1.1", "1.0");
    let mut decoder = Decoder::default();
    decoder.push(old.as_bytes());
    assert_eq!(decoder.advance(), Ok(Progress::Incomplete));
}

#[test]
fn what_is_no_request_is_refused() {
    for text in [
        "\0\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nno header\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: \r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        "PUT / HTTP/1.1\r\nExpect: a miracle\r\n\r\n",
    ] {
        assert_eq!(refusal(text).status, Status::BadRequest, "{text:?}");
    }
    let chunked = refusal("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert!(chunked.message.contains("Content-Length"));
}

#[test]
fn what_is_too_long_is_refused_before_it_is_there() {
    for length in [(MAX_BODY + 1).to_string(), "9".repeat(30)] {
        let text = format!("PUT / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        assert_eq!(refusal(&text).status, Status::PayloadTooLarge);
    }
    let longest = format!(
        "PUT / HTTP/1.1\r\nContent-Length: {MAX_BODY}\r\n\r\n{}",
        "x".repeat(MAX_BODY)
    );
    assert_eq!(request(&longest).body.len(), MAX_BODY);
    let head = |bytes: usize| {
        let start = "GET / HTTP/1.1\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4))
    };
    assert_eq!(request(&head(MAX_HEAD)).path, "/");
    assert!(refusal(&head(MAX_HEAD + 1)).message.contains("8192"));
    let headers = "X: y\r\n".repeat(MAX_HEADERS + 1);
    let refused = refusal(&format!("GET / HTTP/1.1\r\n{headers}\r\n"));
    assert!(refused.message.contains("64 headers"));
}

#[test]
fn a_line_in_a_message_is_short_and_plain() {
    let text = format!("GET /{} HTTP/1.1\r\n\r\n", "%".repeat(1000));
    assert!(request(&text).line.len() < 200);
}

/// Bytes that are nearly requests.
fn nearly_requests() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&str; 14] = [
        "GET / HTTP/1.1\r\n",
        "PUT /actions HTTP/1.1\r\n",
        "PATCH /vm HTTP/1.0\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 51201\r\n",
        "Connection: close\r\n",
        "Expect: 100-continue\r\n",
        "Transfer-Encoding: chunked\r\n",
        "\r\n",
        "\n",
        "{}{",
        "\0",
        "\r",
        " ",
    ];
    let piece = prop::sample::select(&PIECES[..]).prop_map(|piece| piece.as_bytes().to_vec());
    let long = (0u8.., 0..20_000usize).prop_map(|(byte, count)| vec![byte; count]);
    let piece = prop_oneof![20 => piece, 1 => long];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// In however many pieces bytes come, they mean the same.
    #[test]
    fn when_bytes_come_does_not_matter(
        bytes in prop_oneof![nearly_requests(), proptest::collection::vec(0u8.., 0..2000)],
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut start = 0;
        for cut in cuts {
            pieces.push(&bytes[start..cut]);
            start = cut;
        }
        pieces.push(&bytes[start..]);
        prop_assert_eq!(decode(&pieces), decode(&[&bytes]));
    }

    #[test]
    fn bytes_may_come_one_by_one(bytes in nearly_requests()) {
        let bytes = &bytes[..bytes.len().min(3000)];
        let pieces: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(decode(&pieces), decode(&[bytes]));
    }
}
