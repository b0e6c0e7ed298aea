/** A chat as both APIs say it, reduced to what the rules look at. */
export interface Conversation {
  readonly system: string;
  readonly messages: readonly Message[];
  /** Names of the tools on offer. */
  readonly tools: readonly string[];
  /** Words, here: one word is one token. */
  readonly maxTokens: number | undefined;
}

export type Message =
  | { readonly role: 'user'; readonly text: string }
  | {
      readonly role: 'assistant';
      readonly text: string;
      readonly calls: readonly { id: string; name: string }[];
    }
  | { readonly role: 'tool'; readonly callId: string; readonly text: string };

export interface ToolCall {
  readonly name: string;
  readonly arguments: Readonly<Record<string, unknown>>;
}

/** What the model does next. */
export interface Answer {
  readonly thinking: string;
  readonly text: string;
  readonly calls: readonly ToolCall[];
}

type Fields = Readonly<Record<string, unknown>>;

export const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
export const fieldList = (value: unknown): Fields[] => (Array.isArray(value) ? value.filter(isFields) : []);
export const asText = (value: unknown): string => (typeof value === 'string' ? value : '');

/** Text of a content that is a string or a list of parts; parts that are no text are passed over. */
export function contentText(content: unknown): string {
  if (typeof content === 'string') return content;
  return fieldList(content)
    .map((part) => (part.type === 'text' ? asText(part.text) : ''))
    .join('');
}
