import { type BoundedFetch, createBoundedFetch } from '@signalbox/http-client/bounded-fetch';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { collect } from '../test/collect.ts';
import { namedEventStream, type ScriptedEndpoint, scriptedEndpoint } from '../test/scripted-endpoint.ts';
import { createAnthropicModel } from './anthropic-model.ts';
import type { Model, ModelEvent, ModelRequest } from './model-port.ts';

let endpoint: ScriptedEndpoint;
let http: BoundedFetch;
let model: Model;

beforeAll(async () => {
  endpoint = await scriptedEndpoint();
  http = createBoundedFetch({ maxConnections: 2, idleTimeoutMs: 1_000 });
  model = createAnthropicModel({
    baseUrl: endpoint.url,
    apiKey: 'key-of-the-test',
    model: 'claude',
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

function all(given: ModelRequest = request): Promise<ModelEvent[]> {
  return collect(model.stream(given, new AbortController().signal));
}

const start = { type: 'message_start', message: { usage: { input_tokens: 11, output_tokens: 1 } } };
const block = (index: number, content_block: object) => ({
  type: 'content_block_start',
  index,
  content_block,
});
const delta = (index: number, value: object) => ({ type: 'content_block_delta', index, delta: value });
const stopBlock = (index: number) => ({ type: 'content_block_stop', index });
const stop = (stop_reason: string) => [
  { type: 'message_delta', delta: { stop_reason }, usage: { output_tokens: 5 } },
  { type: 'message_stop' },
];

describe('a whole answer', () => {
  test('gives thinking, text and usage', async () => {
    endpoint.answer((_, reply) =>
      namedEventStream(reply, [
        start,
        block(0, { type: 'thinking' }),
        delta(0, { type: 'thinking_delta', thinking: 'hm' }),
        stopBlock(0),
        block(1, { type: 'text', text: '' }),
        { type: 'ping' },
        delta(1, { type: 'text_delta', text: 'Hel' }),
        delta(1, { type: 'text_delta', text: 'lo' }),
        stopBlock(1),
        ...stop('end_turn'),
      ]),
    );
    expect(await all()).toEqual([
      { type: 'thinking', text: 'hm' },
      { type: 'text', text: 'Hel' },
      { type: 'text', text: 'lo' },
      { type: 'usage', inputTokens: 11, outputTokens: 5 },
      { type: 'end', reason: 'stop' },
    ]);
    expect(endpoint.requests.at(-1)).toMatchObject({
      path: '/v1/messages',
      headers: { authorization: 'Bearer key-of-the-test' },
      body: { system: 'be brief', max_tokens: 100, model: 'claude' },
    });
  });

  test('gives several calls with their arguments joined', async () => {
    endpoint.answer((_, reply) =>
      namedEventStream(reply, [
        start,
        block(0, { type: 'tool_use', id: 'a', name: 'echo', input: {} }),
        delta(0, { type: 'input_json_delta', partial_json: '{"te' }),
        delta(0, { type: 'input_json_delta', partial_json: 'xt":"x"}' }),
        stopBlock(0),
        block(1, { type: 'tool_use', id: 'b', name: 'timestamp', input: {} }),
        stopBlock(1),
        ...stop('tool_use'),
      ]),
    );
    expect(await all()).toEqual([
      { type: 'tool_call', id: 'a', name: 'echo', arguments: '{"text":"x"}' },
      { type: 'tool_call', id: 'b', name: 'timestamp', arguments: '{}' },
      { type: 'usage', inputTokens: 11, outputTokens: 5 },
      { type: 'end', reason: 'tool_calls' },
    ]);
  });

  test.each([
    ['max_tokens', 'length'],
    ['refusal', 'content_filter'],
  ])('%s ends with %s', async (reason, end) => {
    endpoint.answer((_, reply) => namedEventStream(reply, [start, ...stop(reason)]));
    expect((await all()).at(-1)).toEqual({ type: 'end', reason: end });
  });

  test('turns alternate, and the results of one round stand in one message', async () => {
    endpoint.answer((_, reply) => namedEventStream(reply, [start, ...stop('end_turn')]));
    await all({
      ...request,
      messages: [
        { role: 'user', text: 'both' },
        {
          role: 'assistant',
          text: '',
          toolCalls: [
            { id: 'a', name: 'echo', arguments: '{"text":"x"}' },
            { id: 'b', name: 'echo', arguments: 'not json' },
          ],
        },
        { role: 'tool', callId: 'a', text: 'x', failed: false },
        { role: 'tool', callId: 'b', text: 'bad', failed: true },
      ],
      tools: [{ name: 'echo', description: 'says it again', parameters: { type: 'object', properties: {} } }],
    });
    expect(endpoint.requests.at(-1)?.body).toMatchObject({
      messages: [
        { role: 'user', content: [{ type: 'text', text: 'both' }] },
        {
          role: 'assistant',
          content: [
            { type: 'tool_use', id: 'a', input: { text: 'x' } },
            { type: 'tool_use', id: 'b', input: {} },
          ],
        },
        {
          role: 'user',
          content: [
            { type: 'tool_result', tool_use_id: 'a', is_error: false },
            { type: 'tool_result', tool_use_id: 'b', is_error: true },
          ],
        },
      ],
      tools: [{ name: 'echo', input_schema: { type: 'object', properties: {} } }],
    });
  });
});

describe('faults', () => {
  test.each([
    [429, { 'retry-after': '2' }, { code: 'MODEL_RATE_LIMITED', retryAfterMs: 2000 }],
    [529, {}, { code: 'MODEL_UNAVAILABLE', retryable: true }],
    [400, {}, { code: 'MODEL_REFUSED', retryable: false }],
  ])('status %i', async (status, headers, expected) => {
    endpoint.answer((_, reply) => reply.writeHead(status, headers).end('{"type":"error","error":{}}'));
    await expect(all()).rejects.toMatchObject(expected);
  });

  test('an error event, a cut stream, malformed JSON, silence', async () => {
    endpoint.answer((_, reply) =>
      namedEventStream(reply, [
        start,
        Object.assign({ type: 'error' }, { error: { type: 'overloaded_error', message: 'busy' } }),
      ]),
    );
    await expect(all()).rejects.toMatchObject({ code: 'MODEL_UNAVAILABLE' });
    endpoint.answer((_, reply) => namedEventStream(reply, [start]));
    await expect(all()).rejects.toMatchObject({ code: 'MODEL_UNAVAILABLE' });
    endpoint.answer((_, reply) => {
      reply
        .writeHead(200, { 'content-type': 'text/event-stream' })
        .end('event: message_start\ndata: {"ty\n\n');
    });
    await expect(all()).rejects.toMatchObject({ code: 'MODEL_BAD_RESPONSE' });
    endpoint.answer((_, reply) => {
      reply.writeHead(200, { 'content-type': 'text/event-stream' });
      reply.write(`event: message_start\ndata: ${JSON.stringify(start)}\n\n`);
    });
    await expect(all()).rejects.toMatchObject({ code: 'TIMEOUT' });
  });
});
