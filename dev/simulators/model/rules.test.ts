import { describe, expect, test } from 'vitest';
import type { Conversation, Message } from './conversation.ts';
import { answerTo, roundsOf, tokensOf } from './rules.ts';

const tools = ['echo', 'timestamp', 'calculator', 'delegate'];

function ask(
  text: string,
  more: Partial<Conversation> = {},
  after: Message[] = [],
): ReturnType<typeof answerTo> {
  return answerTo({
    system: '',
    tools,
    maxTokens: undefined,
    messages: [{ role: 'user', text }, ...after],
    ...more,
  });
}

/** An assistant round that called tools, and their results. */
function round(...calls: [name: string, result: string][]): Message[] {
  return [
    { role: 'assistant', text: '', calls: calls.map(([name], index) => ({ id: `${name}${index}`, name })) },
    ...calls.map(([name, text], index): Message => ({ role: 'tool', callId: `${name}${index}`, text })),
  ];
}

describe('the rules of the stand-in model', () => {
  test.each([
    ['What is 17 * 23?', 'calculator', { expression: '17 * 23' }],
    ['(2 + 3)*-4 please', 'calculator', { expression: '(2 + 3)*-4' }],
    ['calculate sqrt(16)?', 'calculator', { expression: 'sqrt(16)' }],
    ['what time is it', 'timestamp', {}],
    ['echo hello there', 'echo', { text: 'hello there' }],
    ['delegate to researcher: find 2 + 2', 'delegate', { persona_id: 'researcher', message: 'find 2 + 2' }],
    ['use unknown_tool with {"a":1}', 'unknown_tool', { a: 1 }],
  ])('%s → %s', (text, name, args) => {
    expect(ask(text).calls).toEqual([{ name, arguments: args }]);
  });

  test('a message without a rule is repeated by a model that says what it is', () => {
    expect(ask('hello').text).toBe(
      'I am the stand-in model of the development stack and can only repeat: hello',
    );
    expect(ask('model gpt-4-5 of 3').calls).toEqual([]);
  });

  test('tells what it was given to remember', () => {
    const lines = ['{"role":"user","text":"tea"}', '{"role":"note","text":"no\\u003cmilk"}'].join('\n');
    const system = `Be kind.\n\nWhat follows …\n<memories>\n${lines}\n</memories>`;
    expect(ask('what do you remember?', { system }).text).toBe('I remember "tea", "no<milk".');
    expect(ask('what do you remember?').text).toBe('I remember nothing.');
  });

  test('tells the result after the tool has answered', () => {
    expect(ask('17 * 23', {}, round(['calculator', '391']))).toEqual({
      thinking: '',
      text: 'The calculator says 391.',
      calls: [],
    });
  });

  test('runs several rounds, and tells all results in the last', () => {
    const text = 'calculate 2+3, then echo five then say done';
    expect(ask(text).calls.map(({ name }) => name)).toEqual(['calculator']);
    const first = round(['calculator', '5']);
    expect(ask(text, {}, first).calls).toEqual([{ name: 'echo', arguments: { text: 'five' } }]);
    const second = [...first, ...round(['echo', 'five'])];
    expect(ask(text, {}, second).text).toBe('The calculator says 5. The echo says five. done');
  });

  test('calls several tools in one round', () => {
    expect(ask('1+1; what time is it').calls.map(({ name }) => name)).toEqual(['calculator', 'timestamp']);
    expect(ask('calls 3').calls).toHaveLength(3);
    expect(roundsOf('rounds 3')).toEqual([['echo round 1'], ['echo round 2'], ['echo round 3']]);
  });

  test('does not call what is not on offer', () => {
    expect(ask('1+1', { tools: [] })).toMatchObject({
      calls: [],
      text: 'I have no tool named calculator here.',
    });
  });

  test('knows its prompt and what was said before', () => {
    expect(ask('who are you?', { system: 'You are brief.' }).text).toBe('My prompt says: You are brief.');
    const messages: Message[] = [
      { role: 'user', text: 'a' },
      { role: 'assistant', text: 'b', calls: [] },
      { role: 'user', text: 'what did I say?' },
    ];
    expect(ask('', { messages }).text).toBe('You said: "a".');
  });

  test('speaks as long as asked, a word a token', () => {
    expect(tokensOf(ask('long 500').text)).toHaveLength(500);
    expect(tokensOf(' a  b\nc ').join('')).toBe(' a  b\nc ');
  });

  test('answers a megabyte of digits without stalling', () => {
    const startedAt = performance.now();
    ask('1 '.repeat(500_000));
    ask('1+'.repeat(500_000));
    expect(performance.now() - startedAt).toBeLessThan(1_000);
  });
});
