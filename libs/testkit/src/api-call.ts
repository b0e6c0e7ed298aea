/** What a route has answered. */
export interface Answer<B = Record<string, unknown>> {
  readonly status: number;
  readonly headers: Headers;
  readonly body: B;
}

export interface CallOptions {
  /** The API key. */
  readonly key?: string;
  /** Sent as JSON; with one the method is POST where none is given. */
  readonly body?: unknown;
  /** Sent as it is, instead of `body`. */
  readonly raw?: string | Uint8Array<ArrayBuffer>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly method?: string;
}

/** Sends a request to a gateway and reads the JSON answer; one without a body reads as `{}`. */
export async function call<B = Record<string, unknown>>(
  service: { readonly url: string },
  path: string,
  { key, body, raw, headers = {}, method }: CallOptions = {},
): Promise<Answer<B>> {
  const payload = raw ?? (body === undefined ? undefined : JSON.stringify(body));
  const response = await fetch(service.url + path, {
    method: method ?? (payload === undefined ? 'GET' : 'POST'),
    headers: {
      ...(key === undefined ? {} : { 'x-api-key': key }),
      ...(payload === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(payload === undefined ? {} : { body: payload }),
  });
  const text = await response.text();
  // The caller names the form it checks next.
  const read: B = text === '' ? {} : JSON.parse(text);
  return { status: response.status, headers: response.headers, body: read };
}
