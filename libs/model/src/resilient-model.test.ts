import { createBreaker } from '@signalbox/breaker/breaker';
import { type Fault, fault, isFault } from '@signalbox/faults/fault';
import { type BoundedFetch, createBoundedFetch } from '@signalbox/http-client/bounded-fetch';
import { type StandIn, startStandIn } from '@signalbox/testkit/stand-in';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { collect, silent } from '../test/collect.ts';
import type { Model, ModelEvent, ModelRequest } from './model-port.ts';
import { openProfile, type ResolvedProfile, resolveProfile } from './profiles.ts';
import { createResilientModel, type GuardedModel } from './resilient-model.ts';

let simulator: StandIn;
let url: string;
let http: BoundedFetch;

beforeAll(async () => {
  simulator = await startStandIn('model');
  url = simulator.url;
  http = createBoundedFetch({ maxConnections: 4, idleTimeoutMs: 300 });
});
afterEach(() => faults());
afterAll(async () => {
  http?.close();
  await simulator?.close();
});

const faults = (...orders: Record<string, unknown>[]): Promise<void> => simulator.faults(...orders);

const profileOf = (name: string, provider: 'openai' | 'anthropic'): ResolvedProfile =>
  resolveProfile(
    {
      name,
      provider,
      model: `model-${name}`,
      maxOutputTokens: 50,
      baseUrl: provider === 'openai' ? url : new URL(url).origin,
    },
    { provider: 'openai', model: '', baseUrl: '', apiKey: '' },
  );

const failures: { profile: string; fault: Fault; tryNumber: number }[] = [];

function resilient(...profiles: ResolvedProfile[]): { model: Model; chain: GuardedModel[] } {
  failures.length = 0;
  const chain = profiles.map((profile) => ({
    profile: profile.name,
    model: profile.model,
    maxOutputTokens: profile.maxOutputTokens,
    port: openProfile(profile, http, 500),
    breaker: createBreaker({
      ...{ name: `model:${profile.name}`, timeoutMs: 500, errorThresholdPercentage: 50, resetTimeoutMs: 200 },
      ...{ volumeThreshold: 3, ...silent },
      counts: (error) => !isFault(error, 'MODEL_REFUSED') && !isFault(error, 'ABORTED'),
    }),
  }));
  const rules = { tries: 3, firstDelayMs: 5, maxDelayMs: 50 };
  return {
    chain,
    model: createResilientModel(chain, { ...rules, onFailure: (each) => failures.push(each) }),
  };
}

const ask = (text: string): ModelRequest => ({
  system: 'You are terse.',
  messages: [{ role: 'user', text }],
  tools: [{ name: 'echo', description: 'says it again', parameters: { type: 'object' } }],
  maxOutputTokens: 1_000,
});
const never = new AbortController().signal;
const textOf = (events: readonly ModelEvent[]) =>
  events.map((event) => (event.type === 'text' ? event.text : '')).join('');

describe.each(['openai', 'anthropic'] as const)('the stand-in model over its %s API', (provider) => {
  test('answers, calls tools and counts', async () => {
    const { model } = resilient(profileOf('a', provider));
    const said = await collect(model.stream(ask('say hello you'), never));
    expect(said[0]).toEqual({ type: 'served', profile: 'a', model: 'model-a' });
    expect(textOf(said)).toBe('hello you');
    expect(said.at(-1)).toEqual({ type: 'end', reason: 'stop' });
    expect(said.find(({ type }) => type === 'usage')).toMatchObject({ outputTokens: 2 });

    const called = await collect(model.stream(ask('calls 2'), never));
    expect(called.filter(({ type }) => type === 'tool_call')).toHaveLength(2);
    expect(called.at(-1)).toEqual({ type: 'end', reason: 'tool_calls' });
  });

  test('is held to the output limit of its profile', async () => {
    const { model } = resilient(profileOf('a', provider));
    const events = await collect(model.stream(ask('long 80'), never));
    expect(events.at(-1)).toEqual({ type: 'end', reason: 'length' });
  });

  test.each([
    ['500', { status: 500 }, 'MODEL_UNAVAILABLE'],
    ['429', { status: 429, retryAfterMs: 1 }, 'MODEL_RATE_LIMITED'],
    ['no answer', { hang: true }, 'TIMEOUT'],
    ['malformed JSON', { malformedAfterTokens: 0 }, 'MODEL_BAD_RESPONSE'],
  ])('%s before the first token is tried again', async (_, order, code) => {
    await faults({ match: 'hello', times: 1, ...order });
    const { model } = resilient(profileOf('a', provider));
    expect(textOf(await collect(model.stream(ask('say hello'), never)))).toBe('hello');
    expect(failures.map((each) => each.fault.code)).toEqual([code]);
  });

  test.each([
    ['a cut', { cutAfterTokens: 2 }, 'MODEL_UNAVAILABLE'],
    ['malformed JSON', { malformedAfterTokens: 2 }, 'MODEL_BAD_RESPONSE'],
  ])('%s after it goes to the caller, who has the text', async (_, order, code) => {
    await faults({ match: 'one', times: 1, ...order });
    const { model } = resilient(profileOf('a', provider));
    const seen: ModelEvent[] = [];
    await expect(async () => {
      for await (const event of model.stream(ask('say one two three four'), never)) seen.push(event);
    }).rejects.toMatchObject({ code });
    expect(textOf(seen)).toMatch(/^one two/);
    expect(failures).toEqual([]);
  });
});

describe('a chain of profiles', () => {
  test('goes to the fallback when tries are spent, the wait is too long, or the request is refused', async () => {
    for (const [order, tries] of [
      [{ times: 3, status: 500 }, 3],
      [{ times: 1, status: 429, retryAfterMs: 60_000 }, 1],
      [{ times: 1, status: 401 }, 1],
    ] as const) {
      await faults({ match: 'hello', ...order });
      const { model } = resilient(profileOf('a', 'openai'), profileOf('b', 'anthropic'));
      const events = await collect(model.stream(ask('say hello'), never));
      expect(events[0]).toMatchObject({ type: 'served', profile: 'b', model: 'model-b' });
      expect(failures).toHaveLength(tries);
    }
  });

  test('ends with the last fault when all fail', async () => {
    await faults({ status: 503 });
    const { model } = resilient(profileOf('a', 'openai'), profileOf('b', 'anthropic'));
    await expect(collect(model.stream(ask('say x'), never))).rejects.toMatchObject({
      code: 'MODEL_UNAVAILABLE',
    });
    expect(failures).toHaveLength(6);
  });

  test('an open breaker is passed over, and closes again by a probe', async () => {
    await faults({ match: 'hello', times: 3, status: 500 });
    const { model, chain } = resilient(profileOf('a', 'openai'), profileOf('b', 'openai'));
    await collect(model.stream(ask('say hello'), never));
    expect(chain[0]?.breaker.state).toBe('open');
    await collect(model.stream(ask('say hello'), never));
    expect(failures.at(-1)).toMatchObject({ profile: 'a', fault: { code: 'BREAKER_OPEN' } });
    await waitFor(
      () => chain[0]?.breaker.state,
      (state) => state === 'half-open',
    );
    const events = await collect(model.stream(ask('say hello'), never));
    expect(events[0]).toMatchObject({ profile: 'a' });
    expect(chain[0]?.breaker.state).toBe('closed');
  });
});

describe('an abort', () => {
  test('ends the wait between two tries, and a stream, with its own reason', async () => {
    const stop = new AbortController();
    await faults({ match: 'hello', status: 429, retryAfterMs: 40 });
    const { model } = resilient(profileOf('a', 'openai'));
    const asked = collect(model.stream(ask('say hello'), stop.signal));
    stop.abort(fault('DRAINING', 'stopping'));
    await expect(asked).rejects.toMatchObject({ code: 'DRAINING' });

    await faults({ match: 'slow', tokensPerSecond: 20 });
    const other = new AbortController();
    await expect(async () => {
      for await (const event of model.stream(ask('say slow slow slow slow slow'), other.signal)) {
        if (event.type === 'text') other.abort(fault('LEASE_LOST', 'gone'));
      }
    }).rejects.toMatchObject({ code: 'LEASE_LOST' });
    await waitFor(http.connections, (connections) => connections === 0);
  });
});

describe('profiles', () => {
  test('take from the defaults what they leave out, and the key only for the default endpoint', () => {
    const defaults = { provider: 'openai', model: 'm', baseUrl: 'http://here/v1', apiKey: 'secret' } as const;
    expect(resolveProfile({ name: 'a', maxOutputTokens: 1 }, defaults)).toMatchObject({
      ...{ provider: 'openai', model: 'm', baseUrl: 'http://here/v1', apiKey: 'secret' },
    });
    expect(resolveProfile({ name: 'a', maxOutputTokens: 1, baseUrl: 'http://there' }, defaults).apiKey).toBe(
      '',
    );
    expect(resolveProfile({ name: 'a', maxOutputTokens: 1, provider: 'anthropic' }, defaults)).toMatchObject({
      ...{ baseUrl: 'https://api.anthropic.com', apiKey: '' },
    });
  });
});
