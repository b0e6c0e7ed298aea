import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { newId } from '@signalbox/contracts/ids';
import { afterEach, describe, expect, it } from 'vitest';
import { chatOnce } from './chat.ts';
import { showHealth } from './show-health.ts';
import { showTrace } from './show-trace.ts';

const servers: ReturnType<typeof createServer>[] = [];

/** A server of a few lines in place of the gateway or Zipkin: the real ones answer in the demo. */
async function serve(
  answer: (request: IncomingMessage, response: ServerResponse, body: string) => void,
): Promise<string> {
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const piece of request) body += String(piece);
    answer(request, response, body);
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

function json(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
}

describe('trace', () => {
  const eventId = newId();
  const spans = [
    {
      traceId: 'aa',
      id: '1',
      name: 'post',
      timestamp: 1000,
      duration: 2000,
      localEndpoint: { serviceName: 'gateway' },
    },
    { traceId: 'aa', id: '2', parentId: '1', name: 'turn', timestamp: 2000, duration: 500, tags: { x: 1 } },
  ];

  it('finds the event by its tag, reads the whole trace by its id and prints it', async () => {
    const asked: string[] = [];
    const zipkinUrl = await serve((request, response) => {
      asked.push(request.url ?? '');
      // The search knows one span only; the trace has two.
      if (request.url?.startsWith('/api/v2/traces?')) json(response, 200, [[spans[1]]]);
      else json(response, 200, spans);
    });
    const lines: string[] = [];
    await showTrace({ zipkinUrl, eventId, waitMs: 0, print: (line) => lines.push(line) });
    expect(new URLSearchParams(asked[0]?.split('?')[1]).get('annotationQuery')).toBe(
      `signalbox.event_id=${eventId}`,
    );
    expect(asked[1]).toBe('/api/v2/trace/aa');
    expect(lines[0]).toContain('2 spans');
  });

  it('waits until the trace no longer grows', async () => {
    let looks = 0;
    const zipkinUrl = await serve((request, response) => {
      if (request.url?.startsWith('/api/v2/traces?')) {
        looks += 1;
        json(response, 200, looks < 2 ? [] : [spans]);
      } else json(response, 200, looks < 3 ? spans.slice(0, 1) : spans);
    });
    const lines: string[] = [];
    await showTrace({ zipkinUrl, eventId, waitMs: 10_000, print: (line) => lines.push(line) });
    expect(lines[0]).toContain('2 spans');
  });

  it('says clearly what is not there', async () => {
    const zipkinUrl = await serve((_request, response) => json(response, 200, []));
    const look = (id: string, url = zipkinUrl) =>
      showTrace({ zipkinUrl: url, eventId: id, waitMs: 0, print: () => undefined });
    await expect(look(eventId)).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining('--wait'),
    });
    await expect(look('x')).rejects.toMatchObject({ code: 'VALIDATION_ERROR' });
    await expect(look(eventId, 'http://127.0.0.1:1')).rejects.toMatchObject({ code: 'TIMEOUT' });
    const broken = await serve((_request, response) => json(response, 500, {}));
    await expect(look(eventId, broken)).rejects.toMatchObject({ message: expect.stringContaining('500') });
  });
});

describe('chat', () => {
  const ids = { session_id: 's', event_id: 'e', turn_id: 't' };
  const event = (id: string, name: string, data: object) =>
    `id: ${id}\nevent: ${name}\ndata: ${JSON.stringify({ turn_id: 't', attempt: 1, ...data })}\n\n`;

  it('posts once though the first tries fail, resumes after a cut, and shows each piece once', async () => {
    const keys: unknown[] = [];
    const resumedAfter: unknown[] = [];
    const gatewayUrl = await serve((request, response) => {
      if (request.method === 'POST') {
        keys.push(request.headers['idempotency-key']);
        if (keys.length === 1) request.socket.destroy();
        else if (keys.length === 2) json(response, 503, { error_code: 'DRAINING' }, { 'retry-after': '0' });
        else json(response, 202, ids);
        return;
      }
      resumedAfter.push(request.headers['last-event-id']);
      if (resumedAfter.length === 1) {
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        response.write(
          `retry: 10\n\n: keepalive\n\n${event('1-1', 'assistant.delta', { at: 0, text: 'Hel' })}`,
        );
        setTimeout(() => request.socket.destroy(), 50);
      } else if (resumedAfter.length === 2) json(response, 503, {});
      else {
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        response.write(event('1-2', 'assistant.delta', { at: 3, text: 'lo' }));
        response.write(event('1-3', 'assistant.final', { text: 'Hello', end_reason: 'stop' }));
      }
    });
    let shown = '';
    const notes: string[] = [];
    const ok = await chatOnce(
      {
        gatewayUrl,
        apiKey: 'k',
        sessionId: undefined,
        personaId: undefined,
        write: (text) => {
          shown += text;
        },
        note: (line) => notes.push(line),
        interrupts: () => () => undefined,
      },
      'hi',
    );
    expect(ok).toBe(true);
    expect(shown).toBe('Hello\n');
    expect(new Set(keys).size).toBe(1);
    expect(resumedAfter).toEqual(['0-0', '1-1', '1-1']);
    expect(notes).toEqual(['session s', 'event e']);
  });

  /** A chat whose answer begins and goes on until `cancelled` is told; answers the function that is a Ctrl-C. */
  async function interrupted(onCancel: (response: ServerResponse, stream: ServerResponse) => void) {
    const cancels: unknown[] = [];
    let stream: ServerResponse | undefined;
    const gatewayUrl = await serve((request, response, body) => {
      if (request.url === '/v1/session/action') {
        cancels.push(JSON.parse(body));
        if (stream !== undefined) onCancel(response, stream);
      } else if (request.method === 'POST') json(response, 202, ids);
      else {
        stream = response;
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        response.write(event('1-1', 'assistant.delta', { at: 0, text: 'Hel' }));
      }
    });
    const notes: string[] = [];
    let shown = '';
    let ctrlC: () => void = () => undefined;
    const begun = Promise.withResolvers<void>();
    const chat = chatOnce(
      {
        gatewayUrl,
        apiKey: 'k',
        sessionId: undefined,
        personaId: undefined,
        write(text) {
          shown += text;
          begun.resolve();
        },
        note: (line) => notes.push(line),
        interrupts(onInterrupt) {
          ctrlC = onInterrupt;
          return () => undefined;
        },
      },
      'hi',
    );
    await begun.promise;
    return { chat, notes, cancels, shown: () => shown, ctrlC: () => ctrlC() };
  }

  it('cancels the turn at Ctrl-C and shows what stands of its answer', async () => {
    const { chat, notes, cancels, shown, ctrlC } = await interrupted((response, stream) => {
      json(response, 202, {});
      stream.write(event('1-2', 'turn.cancelled', { cause: 'requested', text: 'Hello', length: 5 }));
    });
    ctrlC();
    expect(await chat).toBe(false);
    expect(cancels).toEqual([{ session_id: 's', turn_id: 't', action: 'cancel' }]);
    expect(shown()).toBe('Hello\n[cancelled]\n');
    expect(notes).toEqual(['session s', '\ncancelling; Ctrl-C again leaves', 'event e']);
  });

  it('leaves at the second Ctrl-C, whether the cancel came through or not', async () => {
    const asked = Promise.withResolvers<void>();
    const { chat, cancels, ctrlC } = await interrupted(() => asked.resolve());
    ctrlC();
    await asked.promise;
    ctrlC();
    await expect(chat).rejects.toMatchObject({ code: 'ABORTED' });
    expect(cancels).toHaveLength(1);
  });

  it('says that a cancel was refused, and shows the answer', async () => {
    const { chat, notes, shown, ctrlC } = await interrupted((response, stream) => {
      json(response, 404, { error_code: 'NOT_FOUND', message: 'there is no such session' });
      setTimeout(
        () => stream.write(event('1-2', 'assistant.final', { text: 'Hello', end_reason: 'stop' })),
        50,
      );
    });
    ctrlC();
    expect(await chat).toBe(true);
    expect(shown()).toBe('Hello\n');
    expect(notes).toContain('not cancelled: 404 there is no such session');
  });

  it('tells what the gateway refuses', async () => {
    const gatewayUrl = await serve((_request, response) =>
      json(response, 422, {
        error_code: 'VALIDATION_ERROR',
        message: 'no',
        error_id: 'e1',
        errors: [{ path: '/message', message: 'too short' }],
      }),
    );
    const options = {
      gatewayUrl,
      apiKey: 'k',
      sessionId: undefined,
      personaId: 'p',
      write: () => undefined,
      note: () => undefined,
      interrupts: () => () => undefined,
    };
    await expect(chatOnce(options, '')).rejects.toMatchObject({
      code: 'VALIDATION_ERROR',
      message: expect.stringMatching(/422 no.*\/message.*e1/),
    });
    await expect(chatOnce({ ...options, apiKey: undefined }, 'x')).rejects.toMatchObject({
      code: 'UNAUTHENTICATED',
    });
  });
});

describe('health', () => {
  it('prints each check, and whether the service is down', async () => {
    let status = 200;
    const url = await serve((_request, response) =>
      json(response, status, {
        status: 'degraded',
        version: '1',
        uptime_seconds: 3,
        checks: {
          database: { status: 'ok', latency_ms: 1, age_ms: 20 },
          redis: { status: 'down', reason: 'REDIS_UNAVAILABLE' },
        },
      }),
    );
    const lines: string[] = [];
    expect(await showHealth(url, (line) => lines.push(line))).toBe(true);
    expect(lines[1]).toContain('database  ok');
    expect(lines[2]).toContain('REDIS_UNAVAILABLE');
    status = 503;
    expect(await showHealth(url, () => undefined)).toBe(false);
    await expect(showHealth('http://127.0.0.1:1', () => undefined)).rejects.toMatchObject({
      code: 'TIMEOUT',
    });
  });
});
