import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { type ModelSimulator, startModelSimulator } from './server.ts';

let model: ModelSimulator;
beforeAll(async () => {
  model = await startModelSimulator();
});
afterEach(() => model.setFaults([]));
afterAll(() => model.close());

const chatTools = [{ type: 'function', function: { name: 'calculator', parameters: {} } }];
const claudeTools = [{ name: 'calculator', input_schema: {} }];

function post(path: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(new URL(path, model.url), { method: 'POST', body: JSON.stringify(body), headers });
}
const chat = (text: string, more: object = {}, headers?: Record<string, string>) =>
  post('/v1/chat/completions', { model: 'm', messages: [{ role: 'user', content: text }], ...more }, headers);
const claude = (text: string, more: object = {}) =>
  post('/v1/messages', { model: 'm', max_tokens: 100, messages: [{ role: 'user', content: text }], ...more });

interface ChatMessage {
  readonly content: string | null;
  readonly tool_calls: readonly { id: string; function: { name: string; arguments: string } }[];
}
interface ChatReply {
  readonly choices: readonly { message: ChatMessage; finish_reason: string }[];
}

async function chatReply(reply: Response): Promise<{ message: ChatMessage; finish_reason: string }> {
  const body: ChatReply = JSON.parse(await reply.text());
  const [choice] = body.choices;
  if (choice === undefined) throw new Error('no choice');
  return choice;
}

/** The JSON of each event of a stream. */
async function events(reply: Response): Promise<Record<string, never>[]> {
  const lines = (await reply.text()).split('\n').filter((line) => line.startsWith('data: {'));
  return lines.map((line) => JSON.parse(line.slice(6)));
}

describe('chat completions', () => {
  test('whole, with usage, and says that it is a stand-in', async () => {
    const reply = await chat('say one two three');
    expect(reply.headers.get('x-signalbox-stand-in')).toBe('model');
    expect(await reply.json()).toMatchObject({
      object: 'chat.completion',
      model: 'stand-in:m',
      choices: [{ message: { role: 'assistant', content: 'one two three' }, finish_reason: 'stop' }],
      usage: { prompt_tokens: 4, completion_tokens: 3, total_tokens: 7 },
    });
  });

  test('streamed: the parts join to the text, usage comes when asked for', async () => {
    const chunks = await events(
      await chat('say one two three', { stream: true, stream_options: { include_usage: true } }),
    );
    const deltas = chunks.flatMap(
      (chunk: { choices?: { delta: { content?: string } }[] }) => chunk.choices ?? [],
    );
    expect(deltas.map(({ delta }) => delta.content ?? '').join('')).toBe('one two three');
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 3 } });
  });

  test('calls a tool and tells its result', async () => {
    const first = await chatReply(await chat('17 * 23', { tools: chatTools }));
    const call = first.message.tool_calls[0];
    expect(call?.function).toEqual({ name: 'calculator', arguments: '{"expression":"17 * 23"}' });
    expect(first.finish_reason).toBe('tool_calls');
    const messages = [
      { role: 'user', content: '17 * 23' },
      first.message,
      { role: 'tool', tool_call_id: call?.id, content: '391' },
    ];
    const second = await chatReply(await chat('', { messages, tools: chatTools }));
    expect(second.message.content).toBe('The calculator says 391.');
  });

  test('cuts the text at max_tokens', async () => {
    expect(await chatReply(await chat('long 10', { max_tokens: 3 }))).toMatchObject({
      message: { content: 'word1 word2 word3 ' },
      finish_reason: 'length',
    });
  });

  test('refuses what is no chat', async () => {
    expect((await post('/v1/chat/completions', { model: 'm' })).status).toBe(400);
    expect((await post('/v1/nothing', {})).status).toBe(404);
  });
});

describe('messages', () => {
  test('whole, with tool use', async () => {
    expect(await (await claude('17 * 23', { tools: claudeTools })).json()).toMatchObject({
      type: 'message',
      model: 'stand-in:m',
      content: [{ type: 'tool_use', name: 'calculator', input: { expression: '17 * 23' } }],
      stop_reason: 'tool_use',
    });
  });

  test('streamed, from start to stop, with thinking before text', async () => {
    const all = await events(await claude('think about trains', { stream: true }));
    const types = all.map(({ type }) => type);
    expect(types.at(0)).toBe('message_start');
    expect(types.at(-1)).toBe('message_stop');
    const blocks = all.filter(({ type }) => type === 'content_block_start');
    expect(blocks).toMatchObject([
      { content_block: { type: 'thinking' } },
      { content_block: { type: 'text' } },
    ]);
  });

  test('tells a result that came in a user message', async () => {
    const messages = [
      { role: 'user', content: 'what time is it' },
      { role: 'assistant', content: [{ type: 'tool_use', id: 't1', name: 'timestamp', input: {} }] },
      {
        role: 'user',
        content: [{ type: 'tool_result', tool_use_id: 't1', content: [{ type: 'text', text: 'noon' }] }],
      },
    ];
    expect(await (await claude('', { messages })).json()).toMatchObject({
      content: [{ type: 'text', text: 'The timestamp says noon.' }],
      stop_reason: 'end_turn',
    });
  });
});

describe('faults', () => {
  test('an error by header, in the form of the API', async () => {
    const reply = await chat('say hi', {}, { 'x-simulator-fault': 'status=429, retryAfterMs=1500' });
    expect(reply.status).toBe(429);
    expect(reply.headers.get('retry-after')).toBe('2');
    expect(await reply.json()).toMatchObject({ error: { type: 'rate_limit_error' } });
  });

  test('an order counts down, and only for messages that match', async () => {
    const set = await fetch(new URL('/admin/faults', model.url), {
      method: 'PUT',
      body: JSON.stringify({ match: 'weather', times: 1, status: 500 }),
    });
    expect(set.status).toBe(200);
    expect((await chat('say hi')).status).toBe(200);
    expect((await chat('weather')).status).toBe(500);
    expect((await chat('weather')).status).toBe(200);
    expect(await (await fetch(new URL('/admin/faults', model.url))).json()).toEqual([]);
  });

  test('a cut stream breaks after the tokens asked for', async () => {
    model.setFaults([{ cutAfterTokens: 2, times: 1 }]);
    const reply = await chat('say one two three', { stream: true });
    let text = '';
    const read = async () => {
      for await (const chunk of reply.body ?? []) text += new TextDecoder().decode(chunk);
    };
    await expect(read()).rejects.toThrow();
    expect(text).toContain('two');
    expect(text).not.toContain('three');
  });

  test('malformed JSON, streamed and whole', async () => {
    model.setFaults([{ malformedAfterTokens: 1 }]);
    const lines = (await (await chat('say one two', { stream: true })).text()).split('\n\n');
    expect(() =>
      JSON.parse(
        lines
          .filter((line) => line !== '')
          .at(-1)
          ?.slice(6) ?? '',
      ),
    ).toThrow();
    await expect((await chat('say one two')).json()).rejects.toThrow();
  });

  test('holds the pace asked for', async () => {
    model.setFaults([{ tokensPerSecond: 200, firstTokenMs: 50 }]);
    const startedAt = performance.now();
    await (await chat('long 40', { stream: true })).text();
    const ms = performance.now() - startedAt;
    expect(ms).toBeGreaterThan(230);
    expect(ms).toBeLessThan(1_500);
  });

  test('refuses a fault that it does not know', async () => {
    expect((await chat('x', {}, { 'x-simulator-fault': 'colour=red' })).status).toBe(400);
    const reply = await fetch(new URL('/admin/faults', model.url), {
      method: 'PUT',
      body: '{"status":"many"}',
    });
    expect(reply.status).toBe(422);
  });

  test('shows what it was asked', async () => {
    await chat('say remembered');
    const seen = await (await fetch(new URL('/admin/requests', model.url))).json();
    expect(seen).toContainEqual(
      expect.objectContaining({
        conversation: expect.objectContaining({ messages: [{ role: 'user', text: 'say remembered' }] }),
      }),
    );
  });

  test('shows whether its reply went out whole or the client left before', async () => {
    await chat('say to the end');
    const leaving = new AbortController();
    const left = fetch(new URL('/v1/chat/completions', model.url), {
      method: 'POST',
      body: JSON.stringify({
        model: 'm',
        stream: true,
        messages: [{ role: 'user', content: 'say nothing yet' }],
      }),
      headers: { 'x-simulator-fault': 'hang=true' },
      signal: leaving.signal,
    });
    const endOf = async (text: string) => {
      const answer = await fetch(new URL('/admin/requests', model.url));
      const seen: { ended?: string; conversation: { messages: { text: string }[] } }[] = JSON.parse(
        await answer.text(),
      );
      return seen
        .filter(({ conversation }) => conversation.messages[0]?.text === text)
        .map(({ ended }) => ended);
    };
    await vi.waitFor(async () => expect(await endOf('say nothing yet')).toEqual([undefined]));
    leaving.abort();
    await expect(left).rejects.toThrow();
    await vi.waitFor(async () => expect(await endOf('say nothing yet')).toEqual(['broken']));
    expect(await endOf('say to the end')).toEqual(['whole']);
  });
});
