import { list } from '@signalbox/config/settings';

/** What services that call addresses of tenants share. */
export const guardSettings = {
  webhookAllowedHosts: list({
    env: 'WEBHOOK_ALLOWED_HOSTS',
    doc: 'Hosts that webhooks may call although they are private, for dev and tests; * for all of them.',
    default: [],
    pattern: /^[^\s/@]+$/,
    devOnly: (hosts) =>
      hosts.length > 0 ? 'WEBHOOK_ALLOWED_HOSTS: webhooks go to public addresses only' : undefined,
  }),
};
