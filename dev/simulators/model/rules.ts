import type { Answer, Conversation, Message, ToolCall } from './conversation.ts';

/**
 * The stand-in's whole mind. The last user message is cut at the word "then" into steps; each step is one round of the
 * model. A round whose steps ask for tools answers with calls, at the next request (which carries the results) comes
 * the next round; when no step is left, the results are told. README.md beside this file lists the rules.
 */

/** Numbers with operators between them, ending in a number. The classes are disjoint, so that it cannot backtrack for long. */
const arithmetic = /(?<![\w.-])[-\d(][\d.()\s]*(?:[+\-*/%^][\d.()\s]*)+(?<=[\d)])/;

/** Rules look at no more of a message than this, except those that repeat it. */
const looksAtChars = 2_000;

interface Rule {
  readonly pattern: RegExp;
  answer(match: RegExpExecArray, conversation: Conversation): Partial<Answer>;
}

const call = (name: string, args: ToolCall['arguments']): Partial<Answer> => ({
  calls: [{ name, arguments: args }],
});

function parseArguments(json: string | undefined): ToolCall['arguments'] {
  try {
    const value: unknown = JSON.parse(json ?? '{}');
    return typeof value === 'object' && value !== null ? { ...value } : { value };
  } catch {
    return { text: json };
  }
}

function numbered(count: number, word: string): string {
  return Array.from({ length: count }, (_, index) => `${word}${index + 1}`).join(' ');
}

/** The texts of the memories that conversation-worker puts into a system prompt, one JSON object a line. */
function memoriesIn(system: string): string[] {
  const block = /<memories>\n(.*)\n<\/memories>$/s.exec(system)?.[1];
  if (block === undefined) return [];
  return block.split('\n').map((line) => String(parseArguments(line).text));
}

/** First match wins. */
const rules: readonly Rule[] = [
  {
    pattern: /^use (\S+)(?: with (.*))?$/is,
    answer: (match) => call(match[1] ?? '', parseArguments(match[2])),
  },
  { pattern: /^echo\b[: ]*(.*)$/is, answer: (match) => call('echo', { text: match[1] ?? '' }) },
  {
    pattern: /^calls (\d+)$/i,
    answer: (match) => ({
      calls: Array.from({ length: Math.min(Number(match[1]), 64) }, (_, index) => ({
        name: 'echo',
        arguments: { text: `call ${index + 1}` },
      })),
    }),
  },
  {
    pattern: /^delegate(?: to)? ([\w.-]+):? +(.*)$/is,
    answer: (match) => call('delegate', { persona_id: match[1] ?? '', message: match[2] ?? '' }),
  },
  { pattern: /^say (.*)$/is, answer: (match) => ({ text: match[1] ?? '' }) },
  {
    pattern: /^long (\d+)$/i,
    answer: (match) => ({ text: numbered(Math.min(Number(match[1]), 100_000), 'word') }),
  },
  {
    pattern: /^think(?: about)? (.*)$/is,
    answer: (match) => ({
      thinking: `Let me think about ${match[1]}.`,
      text: `I thought about ${match[1]}.`,
    }),
  },
  {
    pattern: /\bwho are you\b/i,
    answer: (_, { system }) => ({
      text: system === '' ? 'A stand-in without a system prompt.' : `My prompt says: ${system}`,
    }),
  },
  {
    pattern: /\bwhat did i say\b/i,
    answer: (_, { messages }) => {
      const earlier = messages.filter((message) => message.role === 'user').slice(0, -1);
      return {
        text:
          earlier.length === 0
            ? 'Nothing before this.'
            : `You said: ${earlier.map(({ text }) => `"${text}"`).join(', ')}.`,
      };
    },
  },
  {
    pattern: /\bwhat do you remember\b/i,
    answer: (_, { system }) => {
      const known = memoriesIn(system).map((text) => `"${text}"`);
      return { text: known.length === 0 ? 'I remember nothing.' : `I remember ${known.join(', ')}.` };
    },
  },
  { pattern: /\b(what time|the time|timestamp|what date|today)\b/i, answer: () => call('timestamp', {}) },
  {
    pattern: /^calculate (.*)$/is,
    answer: (match) => call('calculator', { expression: (match[1] ?? '').trim().replace(/[?.!]+$/, '') }),
  },
  { pattern: arithmetic, answer: (match) => call('calculator', { expression: match[0].trim() }) },
  {
    pattern: /^(.*)$/s,
    answer: (match) => ({
      text: `I am the stand-in model of the development stack and can only repeat: ${match[1]}`,
    }),
  },
];

/** "rounds 3" is short for three echoes, one a round. */
function expand(step: string): string[] {
  const count = /^rounds (\d+)$/i.exec(step)?.[1];
  if (count === undefined) return [step];
  return Array.from({ length: Math.min(Number(count), 1_000) }, (_, index) => `echo round ${index + 1}`);
}

/** The rounds that a message asks for; within a round, ";" separates what is done at once. */
export function roundsOf(message: string): string[][] {
  return message
    .split(/[,;]?\s+then\s+/i)
    .flatMap((step) => expand(step.trim()))
    .map((step) =>
      step
        .split(';')
        .map((part) => part.trim())
        .filter((part) => part !== ''),
    );
}

function applyRules(request: string, conversation: Conversation): Partial<Answer> {
  for (const rule of rules) {
    const match = rule.pattern.exec(rule.pattern === arithmetic ? request.slice(0, looksAtChars) : request);
    if (match !== null) return rule.answer(match, conversation);
  }
  return {};
}

function runRound(requests: readonly string[], conversation: Conversation): Answer {
  const answers = requests.map((request) => applyRules(request, conversation));
  const wanted = answers.flatMap((answer) => answer.calls ?? []);
  // `use <tool>` may name one that is not on offer: what a model does that hallucinates.
  const forced = new Set(requests.map((request) => /^use (\S+)/i.exec(request)?.[1]));
  const calls = wanted.filter(({ name }) => conversation.tools.includes(name) || forced.has(name));
  const missing = wanted
    .filter((each) => !calls.includes(each))
    .map(({ name }) => `I have no tool named ${name} here.`);
  const join = (texts: (string | undefined)[]) =>
    texts.filter((text) => text !== undefined && text !== '').join(' ');
  return {
    thinking: join(answers.map((answer) => answer.thinking)),
    text: join([...answers.map((answer) => answer.text), ...missing]),
    calls,
  };
}

type ToolResult = { readonly name: string; readonly text: string };

/** What happened since the last user message: how many rounds were run, and what the tools answered. */
function sinceLastUserMessage(messages: readonly Message[]): {
  request: string;
  rounds: number;
  results: ToolResult[];
} {
  const start = messages.findLastIndex((message) => message.role === 'user');
  const request = messages[start];
  const after = messages.slice(start + 1);
  const names = new Map<string, string>();
  const results: ToolResult[] = [];
  let rounds = 0;
  for (const message of after) {
    if (message.role === 'assistant') {
      if (message.calls.length > 0) rounds += 1;
      for (const { id, name } of message.calls) names.set(id, name);
    } else if (message.role === 'tool') {
      results.push({ name: names.get(message.callId) ?? 'tool', text: message.text });
    }
  }
  return { request: request?.text ?? '', rounds, results };
}

function tell(results: readonly ToolResult[]): string {
  return results.map(({ name, text }) => `The ${name} says ${text}.`).join(' ');
}

/** The stand-in's next move. Pure: the same conversation gets the same answer. */
export function answerTo(conversation: Conversation): Answer {
  const { request, rounds, results } = sinceLastUserMessage(conversation.messages);
  const asked = roundsOf(request.trim());
  const round = asked[rounds];
  if (round === undefined) return { thinking: '', text: tell(results), calls: [] };
  const answer = runRound(round, conversation);
  // Text in the last round ends the answer: the results of the rounds before it belong to it.
  const ends = answer.calls.length === 0 && results.length > 0;
  return ends
    ? { ...answer, text: [tell(results), answer.text].filter((text) => text !== '').join(' ') }
    : answer;
}

/** Text in tokens: words with the blank after them. */
export function tokensOf(text: string): string[] {
  return text.match(/\s*\S+\s*/g) ?? (text === '' ? [] : [text]);
}
