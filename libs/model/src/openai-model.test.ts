import { type BoundedFetch, createBoundedFetch } from '@signalbox/http-client/bounded-fetch';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { collect } from '../test/collect.ts';
import { eventStream, type ScriptedEndpoint, scriptedEndpoint } from '../test/scripted-endpoint.ts';
import type { Model, ModelEvent, ModelRequest } from './model-port.ts';
import { createOpenAiModel } from './openai-model.ts';

let endpoint: ScriptedEndpoint;
let http: BoundedFetch;
let model: Model;

beforeAll(async () => {
  endpoint = await scriptedEndpoint();
  http = createBoundedFetch({ maxConnections: 2, idleTimeoutMs: 1_000 });
  model = createOpenAiModel({
    baseUrl: `${endpoint.url}/v1`,
    apiKey: 'key-of-the-test',
    model: 'm1',
    timeoutMs: 1_500,
    http,
  });
});
afterAll(async () => {
  http.close();
  await endpoint[Symbol.asyncDispose]();
});

const request: ModelRequest = {
  system: 'be brief',
  messages: [{ role: 'user', text: 'hi' }],
  tools: [],
  maxOutputTokens: 100,
};
const never = new AbortController().signal;

async function all(given: ModelRequest = request, signal = never): Promise<ModelEvent[]> {
  return collect(model.stream(given, signal));
}

const piece = (delta: object, finish_reason: string | null = null) => ({
  id: 'c',
  object: 'chat.completion.chunk',
  created: 1,
  model: 'm1',
  choices: [{ index: 0, delta, finish_reason }],
});
const call = (index: number | undefined, id: string | undefined, name: string | undefined, args: string) => ({
  tool_calls: [{ index, id, type: 'function', function: { name, arguments: args } }],
});

describe('a whole answer', () => {
  test('gives its text, thinking and usage in order and ends once', async () => {
    endpoint.answer((_, reply) =>
      eventStream(reply, [
        piece({ role: 'assistant', content: '' }),
        piece({ reasoning_content: 'hm' }),
        piece({ content: 'Hel' }),
        piece({ content: 'lo' }),
        piece({}, 'stop'),
        { ...piece({}), choices: [], usage: { prompt_tokens: 7, completion_tokens: 2, total_tokens: 9 } },
      ]),
    );
    expect(await all()).toEqual([
      { type: 'thinking', text: 'hm' },
      { type: 'text', text: 'Hel' },
      { type: 'text', text: 'lo' },
      { type: 'usage', inputTokens: 7, outputTokens: 2 },
      { type: 'end', reason: 'stop' },
    ]);
    const { headers, body, path } = endpoint.requests.at(-1) ?? {};
    expect(path).toBe('/v1/chat/completions');
    expect(headers?.authorization).toBe('Bearer key-of-the-test');
    expect(body).toMatchObject({ model: 'm1', stream: true, max_tokens: 100 });
    expect(body).not.toHaveProperty('tools');
  });

  test('joins the pieces of calls that come interleaved', async () => {
    endpoint.answer((_, reply) =>
      eventStream(reply, [
        piece(call(0, 'a', 'echo', '')),
        piece(call(1, 'b', 'calculator', '{"expr')),
        piece(call(0, undefined, undefined, '{"text":"x"}')),
        piece(call(1, undefined, undefined, 'ession":"1+1"}')),
        piece({}, 'tool_calls'),
      ]),
    );
    expect(await all()).toEqual([
      { type: 'tool_call', id: 'a', name: 'echo', arguments: '{"text":"x"}' },
      { type: 'tool_call', id: 'b', name: 'calculator', arguments: '{"expression":"1+1"}' },
      { type: 'end', reason: 'tool_calls' },
    ]);
  });

  test('takes calls without index, id or arguments, and `stop` after them, for calls', async () => {
    endpoint.answer((_, reply) =>
      eventStream(reply, [piece(call(undefined, undefined, 'timestamp', '')), piece({}, 'stop')]),
    );
    expect(await all()).toEqual([
      { type: 'tool_call', id: 'call_0', name: 'timestamp', arguments: '{}' },
      { type: 'end', reason: 'tool_calls' },
    ]);
  });

  test('drops a call that the length has cut', async () => {
    endpoint.answer((_, reply) =>
      eventStream(reply, [piece(call(0, 'a', 'echo', '{"te')), piece({}, 'length')]),
    );
    expect(await all()).toEqual([{ type: 'end', reason: 'length' }]);
  });

  test.each([
    ['as a finish reason', 200],
    ['as a refusal of the prompt', 400],
  ])('content filter %s is an end', async (_, status) => {
    endpoint.answer((_request, reply) => {
      if (status === 200) eventStream(reply, [piece({ content: 'I' }), piece({}, 'content_filter')]);
      else {
        reply.writeHead(400, { 'content-type': 'application/json' });
        reply.end(JSON.stringify({ error: { message: 'filtered', code: 'content_filter' } }));
      }
    });
    expect((await all()).at(-1)).toEqual({ type: 'end', reason: 'content_filter' });
  });

  test('tells the model of its calls, their results and the tools', async () => {
    endpoint.answer((_, reply) => eventStream(reply, [piece({ content: 'ok' }), piece({}, 'stop')]));
    await all({
      ...request,
      messages: [
        { role: 'user', text: 'now?' },
        { role: 'assistant', text: '', toolCalls: [{ id: 'a', name: 'timestamp', arguments: '{}' }] },
        { role: 'tool', callId: 'a', text: 'noon', failed: false },
      ],
      tools: [{ name: 'timestamp', description: 'the time', parameters: { type: 'object' } }],
    });
    expect(endpoint.requests.at(-1)?.body).toMatchObject({
      messages: [
        { role: 'system', content: 'be brief' },
        { role: 'user', content: 'now?' },
        { role: 'assistant', content: null, tool_calls: [{ id: 'a', type: 'function' }] },
        { role: 'tool', tool_call_id: 'a', content: 'noon' },
      ],
      tools: [{ type: 'function', function: { name: 'timestamp' } }],
    });
  });
});

describe('faults', () => {
  test.each([
    [429, { 'retry-after': '3' }, { code: 'MODEL_RATE_LIMITED', retryAfterMs: 3000, retryable: true }],
    [500, {}, { code: 'MODEL_UNAVAILABLE', retryable: true }],
    [503, { 'retry-after-ms': '250' }, { code: 'MODEL_UNAVAILABLE', retryAfterMs: 250 }],
    [401, {}, { code: 'MODEL_REFUSED', retryable: false }],
    [404, {}, { code: 'MODEL_REFUSED' }],
    [302, {}, { code: 'MODEL_BAD_RESPONSE' }],
  ])('status %i', async (status, headers, expected) => {
    endpoint.answer((_, reply) =>
      reply.writeHead(status, headers).end('{"error":{"message":"secret words"}}'),
    );
    const failure = all();
    await expect(failure).rejects.toMatchObject(expected);
    await expect(failure).rejects.not.toThrow(/secret words/);
  });

  test('a stream that is cut, before and after its first token', async () => {
    endpoint.answer((_, reply) => {
      reply.writeHead(200, { 'content-type': 'text/event-stream' });
      reply.write(`data: ${JSON.stringify(piece({ content: 'Hel' }))}\n\n`, () => reply.destroy());
    });
    await expect(all()).rejects.toMatchObject({ code: 'MODEL_UNAVAILABLE' });
    // The connection ends well, the answer does not: only its finish reason tells a whole answer.
    endpoint.answer((_, reply) => eventStream(reply, [piece({ content: 'Hel' })], ''));
    await expect(all()).rejects.toMatchObject({ code: 'MODEL_UNAVAILABLE' });
  });

  test('malformed JSON, and JSON of another form', async () => {
    endpoint.answer((_, reply) => {
      reply.writeHead(200, { 'content-type': 'text/event-stream' }).end('data: {"choices": [\n\n');
    });
    await expect(all()).rejects.toMatchObject({ code: 'MODEL_BAD_RESPONSE' });
    endpoint.answer((_, reply) =>
      eventStream(reply, [{ choices: [{ index: 0, delta: { tool_calls: 5 } }] }]),
    );
    await expect(all()).rejects.toMatchObject({ code: 'MODEL_BAD_RESPONSE' });
  });

  test('an error event in the stream', async () => {
    endpoint.answer((_, reply) => eventStream(reply, [{ error: { type: 'server_error', message: 'no' } }]));
    await expect(all()).rejects.toMatchObject({ code: 'MODEL_UNAVAILABLE' });
  });

  test('no answer, and silence in the middle of one', async () => {
    endpoint.answer(() => undefined);
    await expect(all()).rejects.toMatchObject({ code: 'TIMEOUT' });
    endpoint.answer((_, reply) => {
      reply.writeHead(200, { 'content-type': 'text/event-stream' });
      reply.write(`data: ${JSON.stringify(piece({ content: 'Hel' }))}\n\n`);
    });
    await expect(all()).rejects.toMatchObject({ code: 'TIMEOUT' });
  });

  test('nobody listens', async () => {
    const nobody = createOpenAiModel({
      baseUrl: 'http://127.0.0.1:1/v1',
      apiKey: '',
      model: 'm',
      timeoutMs: 300,
      http,
    });
    await expect(collect(nobody.stream(request, never))).rejects.toMatchObject({
      code: 'MODEL_UNAVAILABLE',
    });
  });
});

describe('connections', () => {
  const endless = (_: unknown, reply: import('node:http').ServerResponse) => {
    reply.writeHead(200, { 'content-type': 'text/event-stream' });
    const timer = setInterval(() => reply.write(`data: ${JSON.stringify(piece({ content: 'x' }))}\n\n`), 10);
    reply.on('close', () => clearInterval(timer));
  };

  test('an abort, and a reader who leaves, close the connection', async () => {
    endpoint.answer(endless);
    const before = endpoint.aborted();
    const stop = new AbortController();
    await expect(async () => {
      for await (const event of model.stream(request, stop.signal)) {
        expect(event).toEqual({ type: 'text', text: 'x' });
        stop.abort(new Error('enough'));
      }
    }).rejects.toThrow('enough');
    await waitFor(endpoint.aborted, (aborted) => aborted === before + 1);
    for await (const _ of model.stream(request, never)) break;
    await waitFor(endpoint.aborted, (aborted) => aborted === before + 2);
  });

  test('never more than the bound; who waits too long fails in time', async () => {
    endpoint.answer(endless);
    const stop = new AbortController();
    const running = [0, 1].map(async () => {
      for await (const _ of model.stream(request, stop.signal)) if (stop.signal.aborted) return;
    });
    await waitFor(http.connections, (connections) => connections === 2);
    await expect(all()).rejects.toMatchObject({ code: 'TIMEOUT' });
    expect(endpoint.open()).toBeLessThanOrEqual(2);
    stop.abort();
    await Promise.allSettled(running);
  });

  test('a connection is kept and used again', async () => {
    endpoint.answer((_, reply) => eventStream(reply, [piece({ content: 'ok' }), piece({}, 'stop')]));
    await all();
    const before = endpoint.everOpened();
    await all();
    await all();
    expect(endpoint.everOpened()).toBe(before);
  });
});
